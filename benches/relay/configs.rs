//! Configurations of the peers. Each function gives side A and side B.

use std::path::PathBuf;

use crate::certs::Pair;
use crate::peers::Stage;
use crate::ports::free_port;

/// Where certificate and key stand in one file.
pub fn both(pair: &Pair) -> PathBuf {
    pair.certificate.with_extension("both.pem")
}

/// Reuses connections always; the timeouts are far beyond any measurement.
pub fn haproxy(stage: &Stage, port: u16, link: u16) -> [String; 2] {
    let authority = stage.authority.display();
    let [a, b] = stage.certificates.each_ref().map(both);
    let (a, b, echo, threads) = (a.display(), b.display(), stage.echo, stage.threads);
    let head = format!(
        "global\n  nbthread {threads}\n  maxconn 8000\ndefaults\n  mode http\n  http-reuse always\n  \
         timeout client 300s\n  timeout server 300s\n  timeout connect 5s\n"
    );
    [
        format!(
            "{head}frontend in\n  bind 127.0.0.1:{port} proto h2\n  default_backend out\nbackend out\n  \
             server b 127.0.0.1:{link} proto h2 alpn h2 ssl ssl-min-ver TLSv1.3 crt {a} ca-file {authority} \
             verify required verifyhost localhost sni str(localhost)\n"
        ),
        format!(
            "{head}frontend in\n  bind 127.0.0.1:{link} alpn h2 ssl ssl-min-ver TLSv1.3 crt {b} \
             ca-file {authority} verify required\n  default_backend out\nbackend out\n  \
             server echo 127.0.0.1:{echo} proto h2\n"
        ),
    ]
}

/// `grpc_pass` opens one upstream connection per call in flight; they are kept.
pub fn nginx(stage: &Stage, port: u16, link: u16) -> [String; 2] {
    let authority = stage.authority.display();
    let [a, b] = &stage.certificates;
    let (a, a_key) = (a.certificate.display(), a.key.display());
    let (b, b_key) = (b.certificate.display(), b.key.display());
    let echo = stage.echo;
    let config = |side: &str, listen: String, inside: String, upstream: String| {
        let directory = stage.directory.display();
        let threads = stage.threads;
        format!(
            "worker_processes {threads};\ndaemon off;\npid {directory}/nginx-{side}.pid;\n\
             error_log {directory}/nginx-{side}.error.log warn;\nworker_rlimit_nofile 65536;\n\
             events {{ worker_connections 16384; }}\n\
             http {{\n  access_log off;\n  client_max_body_size 0;\n  client_body_buffer_size 128k;\n  \
             http2_max_concurrent_streams 1024;\n  keepalive_requests 1000000000;\n  keepalive_timeout 3600s;\n  \
             client_body_temp_path {directory}/nginx-{side}-body;\n  proxy_temp_path {directory}/nginx-{side}-proxy;\n  \
             fastcgi_temp_path {directory}/nginx-{side}-fcgi;\n  uwsgi_temp_path {directory}/nginx-{side}-uwsgi;\n  \
             scgi_temp_path {directory}/nginx-{side}-scgi;\n  \
             upstream next {{ server {upstream}; keepalive 2048; keepalive_requests 1000000000; }}\n  \
             server {{\n    listen {listen};\n{inside}\n  }}\n}}\n"
        )
    };
    [
        config(
            "a",
            format!("127.0.0.1:{port} http2"),
            format!(
                "    location / {{\n      grpc_pass grpcs://next;\n      grpc_ssl_certificate {a};\n      \
                 grpc_ssl_certificate_key {a_key};\n      grpc_ssl_trusted_certificate {authority};\n      \
                 grpc_ssl_verify on;\n      grpc_ssl_name localhost;\n      grpc_ssl_protocols TLSv1.3;\n    }}"
            ),
            format!("127.0.0.1:{link}"),
        ),
        config(
            "b",
            format!("127.0.0.1:{link} ssl http2"),
            format!(
                "    ssl_certificate {b};\n    ssl_certificate_key {b_key};\n    ssl_client_certificate {authority};\n    \
                 ssl_verify_client on;\n    ssl_protocols TLSv1.3;\n    location / {{ grpc_pass grpc://next; }}"
            ),
            format!("127.0.0.1:{echo}"),
        ),
    ]
}

/// Circuit breakers lifted, no request ids, one multiplexed connection per worker between A and B.
pub fn envoy(stage: &Stage, port: u16, link: u16, http3: bool) -> [String; 2] {
    let [a, b] = &stage.certificates;
    let plain = http2_options();
    let (quic_in, quic_out) = (tls(stage, b, true, http3), tls(stage, a, false, http3));
    let protocol = if http3 { "http3_protocol_options: {}" } else { plain };
    [
        envoy_side(&Side {
            listener: listener(port, "AUTO", false, ""),
            upstream_port: link,
            upstream_protocol: protocol,
            upstream_tls: &quic_out,
        }),
        envoy_side(&Side {
            listener: listener(link, if http3 { "HTTP3" } else { "AUTO" }, http3, &quic_in),
            upstream_port: stage.echo,
            upstream_protocol: plain,
            upstream_tls: "",
        }),
    ]
}

struct Side<'a> {
    listener: String,
    upstream_port: u16,
    upstream_protocol: &'a str,
    upstream_tls: &'a str,
}

fn http2_options() -> &'static str {
    "http2_protocol_options: { max_concurrent_streams: 10000, initial_stream_window_size: 1048576, \
     initial_connection_window_size: 67108864 }"
}

fn listener(port: u16, codec: &str, udp: bool, tls: &str) -> String {
    let (protocol, udp_config) = if udp {
        ("UDP", "\n    udp_listener_config: { quic_options: {} }")
    } else {
        ("TCP", "")
    };
    let http2 = http2_options();
    format!(
        r#"  - name: in
    address: {{ socket_address: {{ protocol: {protocol}, address: 127.0.0.1, port_value: {port} }} }}{udp_config}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: {codec}
          generate_request_id: false
          stream_idle_timeout: 0s
          {http2}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: "/" }}, route: {{ cluster: next, timeout: 0s }} }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true }}
{tls}"#
    )
}

/// The transport socket of one side; `incoming` is the side that accepts.
fn tls(stage: &Stage, own: &Pair, incoming: bool, quic: bool) -> String {
    let (certificate, key, authority) = (own.certificate.display(), own.key.display(), stage.authority.display());
    // It stands in a filter chain on the side that accepts, in a cluster on the other.
    let (indent, direction, requires) = if incoming {
        ("      ", "Downstream", "require_client_certificate: true")
    } else {
        ("    ", "Upstream", "sni: localhost")
    };
    let alpn = if quic { "h3" } else { "h2" };
    let context = format!(
        "common_tls_context: {{ alpn_protocols: [{alpn}], \
         tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}, \
         tls_certificates: [{{ certificate_chain: {{ filename: {certificate} }}, private_key: {{ filename: {key} }} }}], \
         validation_context: {{ trusted_ca: {{ filename: {authority} }} }} }}, {requires}"
    );
    let tls_type = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{direction}TlsContext");
    if quic {
        let quic_type =
            format!("type.googleapis.com/envoy.extensions.transport_sockets.quic.v3.Quic{direction}Transport");
        let field = direction.to_lowercase();
        format!(
            "{indent}transport_socket: {{ name: envoy.transport_sockets.quic, typed_config: {{ \"@type\": {quic_type}, \
             {field}_tls_context: {{ {context} }} }} }}\n"
        )
    } else {
        format!(
            "{indent}transport_socket: {{ name: envoy.transport_sockets.tls, \
             typed_config: {{ \"@type\": {tls_type}, {context} }} }}\n"
        )
    }
}

fn envoy_side(side: &Side<'_>) -> String {
    let Side {
        listener,
        upstream_port,
        upstream_protocol,
        upstream_tls,
    } = side;
    let lots = 1_000_000_000;
    format!(
        r#"static_resources:
  listeners:
{listener}
  clusters:
  - name: next
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{ thresholds: [{{ max_connections: {lots}, max_pending_requests: {lots}, max_requests: {lots} }}] }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ {upstream_protocol} }}
    load_assignment:
      cluster_name: next
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream_port} }} }} }} }}] }}]
{upstream_tls}"#
    )
}

/// Unit `a` in one Geo, unit `b` with the echo service in another; keys `b:` belong to `b`.
pub fn strait(stage: &Stage, port: u16, link: u16, name: &str) -> [String; 2] {
    let authority = stage.authority.display();
    let threads = stage.threads;
    let side = |unit: &str, geo: &str, pair: &Pair, grpc: u16, peer: u16| {
        let (certificate, key, admin) = (pair.certificate.display(), pair.key.display(), free_port());
        let data = stage.directory.join(format!("{name}-{unit}"));
        let data = data.display();
        format!(
            "[relay]\ngeo = \"{geo}\"\nunit = \"{unit}\"\nname = \"{unit}-1\"\ndata_dir = \"{data}\"\nshards = {threads}\n\
             [ingress.grpc]\nlisten = [\"127.0.0.1:{grpc}\"]\nsocket = \"grpc.sock\"\n\
             [ingress.framed]\nlisten = []\nsocket = \"strait.sock\"\n\
             [admin]\nlisten = \"127.0.0.1:{admin}\"\n\
             [peer]\nlisten = \"127.0.0.1:{peer}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
             trust_domain = \"strait.bench\"\n[peer.trust]\ngeo-a = \"{authority}\"\ngeo-b = \"{authority}\"\n\
             [routing]\ndimensions = [\"uid\"]\n\
             [[routing.rules]]\ndimension = \"uid\"\nprefix = \"b:\"\nunit = \"b\"\n"
        )
    };
    let [a, b] = &stage.certificates;
    let echo = stage.echo;
    let unused = free_port();
    [
        side("a", "geo-a", a, port, unused)
            + &format!(
                "[units.b]\ngeo = \"geo-b\"\n[[units.b.relays]]\nname = \"b-1\"\naddresses = [\"127.0.0.1:{link}\"]\n"
            ),
        side("b", "geo-b", b, free_port(), link)
            + &format!(
                "[units.a]\ngeo = \"geo-a\"\ndial = false\n\
                 [services.\"im.Echo\"]\nendpoints = [\"http://127.0.0.1:{echo}\"]\n\
                 [services.\"im.Framed\"]\nendpoints = []\n"
            ),
    ]
}
