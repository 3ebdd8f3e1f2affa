//! O-S2, T3, T4, T24, T28, I11: links end when their peer may no longer be there, and are replaced before their
//! certificates or their age end them, without a failed call.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use time::Duration as Span;
use tokio::task::JoinSet;
use tonic::Code;

use crate::harness::{Authority, Cluster, DOMAIN, Leaf, Relay, http_get, wait_for, within};
use crate::reload::reload;
use crate::services::{Client, Echo, request};

const LIMIT: Duration = Duration::from_secs(60);

/// Calls without end, from unit `a` to keys of one other unit.
struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    tasks: JoinSet<Vec<tonic::Status>>,
}

impl Load {
    async fn start(cluster: &Cluster, key: &'static str) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..4 {
            // A connection each, so that both shards have some.
            let client = Client::connect(&cluster.relay("a-1").grpc()).await;
            let (stop, made) = (stop.clone(), made.clone());
            tasks.spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let body = Bytes::from(vec![7; 100 + 9_000 * (made.load(Ordering::SeqCst) % 4) as usize]);
                    let asked = request(body, &[("strait-key", key)]);
                    let answer = within("a call", LIMIT, client.unary("Unary", asked)).await;
                    failed.extend(answer.err());
                    made.fetch_add(1, Ordering::SeqCst);
                }
                failed
            });
        }
        Self { stop, made, tasks }
    }

    /// Ends the calls once there were some; none may have failed.
    async fn end(self) {
        wait_for("calls to be made", LIMIT, async || {
            let made = self.made.load(Ordering::SeqCst);
            (made > 100).then_some(())
        })
        .await;
        self.stop.store(true, Ordering::SeqCst);
        let failed: Vec<_> = self.tasks.join_all().await.concat();
        assert!(
            failed.is_empty(),
            "{} calls failed, such as {:?}",
            failed.len(),
            failed[0]
        );
    }
}

async fn ended(relay: &Relay, reason: &str) -> f64 {
    let metrics = relay.metrics().await;
    metrics.sum("strait_peer_links_ended_total", &[("reason", reason)])
}

/// Makes the certificate or key of `a` unusable.
type Spoil = fn(&Cluster);

/// Nothing but replacements has ended links, so far.
async fn only_replaced(cluster: &Cluster) {
    for relay in cluster.relays() {
        for reason in ["age", "expired", "lost", "refused", "shutdown"] {
            assert_eq!(ended(relay, reason).await, 0.0, "{}: {reason}", relay.name);
        }
    }
}

async fn until_refused(relay: &Relay, reason: &str) {
    wait_for(&format!("a link to be refused: {reason}"), LIMIT, async || {
        let metrics = relay.metrics().await;
        let counted = metrics.sum("strait_peer_refused_total", &[("reason", reason)]) > 0.0;
        (counted && ended(relay, "refused").await > 0.0).then_some(())
    })
    .await;
    assert!(relay.log().contains(reason), "the log names the reason");
}

async fn certificates(relay: &Relay) -> Value {
    let (status, body) = http_get(&relay.admin(), "/certificates").await.unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Links that use an earlier certificate of either side.
async fn old_links(relay: &Relay) -> usize {
    let page = certificates(relay).await;
    let links = page["links"].as_array().unwrap();
    links
        .iter()
        .filter(|link| link["own_is_old"] == true || link["peer_is_old"] == true)
        .count()
}

async fn until_no_old_link(cluster: &Cluster) {
    for relay in cluster.relays() {
        let what = format!("links of {} with old certificates to be replaced", relay.name);
        wait_for(&what, LIMIT, async || (old_links(relay).await == 0).then_some(())).await;
    }
}

/// A new certificate for the relay of a unit.
fn issue(cluster: &Cluster, authority: &Authority, unit: &str, change: impl FnOnce(&mut Leaf)) {
    let relay = cluster.relay(&format!("{unit}-1"));
    let mut leaf = Leaf::relay(DOMAIN, &format!("geo-{unit}"), unit, &relay.name);
    change(&mut leaf);
    authority.issue(&leaf, relay.directory(), "relay");
}

/// A pair of which both relays have this setting.
async fn start_with(echo: &Echo, key: &str, value: &str) -> Cluster {
    let pair = Cluster::pair(&echo.endpoint());
    pair.set("a", key, value).set("b", key, value).start().await
}

async fn start_all(cluster: &mut Cluster) {
    let names: Vec<String> = cluster.relays().iter().map(|relay| relay.name.clone()).collect();
    for name in &names {
        cluster.relay_mut(name).spawn();
    }
    for name in &names {
        cluster.relay_mut(name).until_ready().await;
    }
    cluster.until_all_linked().await;
}

/// Three units; `a` has a revocation list for the Geo of `b`, on which nobody is yet.
fn with_list(echo: &Echo, valid_for: Span) -> Cluster {
    let cluster = Cluster::pair(&echo.endpoint())
        .unit("c", 1)
        .service("c", "im.Echo", &[echo.endpoint()])
        .set("a", "peer.crls.geo-b", vec![toml::Value::from("b.crl")])
        .prepare();
    issue(&cluster, cluster.authority("b"), "b", |leaf| leaf.serial = Some(77));
    write_list(&cluster, &[], valid_for);
    cluster
}

fn write_list(cluster: &Cluster, serials: &[u8], valid_for: Span) {
    let path = cluster.relay("a-1").directory().join("b.crl");
    cluster.authority("b").write_crl(&path, serials, valid_for);
}

// T4, I11: a connection that was there before the revocation does not outlive it, whoever dialled it; others stay.
#[tokio::test]
async fn a_revoked_peer_loses_its_open_links_and_others_keep_theirs() {
    let echo = Echo::start();
    let mut cluster = with_list(&echo, Span::DAY);
    start_all(&mut cluster).await;
    let load = Load::start(&cluster, "uid=c:1").await;
    write_list(&cluster, &[77], Span::DAY);
    let relay = cluster.relay("a-1");
    reload(relay, "applied", |_| {}).await;
    until_refused(relay, "revoked").await;
    cluster.until_unlinked("a-1", "b").await;
    let metrics = relay.metrics().await;
    for direction in ["dialled", "accepted"] {
        let labels = [("reason", "revoked"), ("direction", direction)];
        assert!(metrics.sum("strait_peer_refused_total", &labels) > 0.0, "{direction}");
    }
    assert_eq!(metrics.sum("strait_peer_links_ended_total", &[("dst_unit", "c")]), 0.0);
    load.end().await;
}

// T3, I11: a list that runs out is noticed without a reload.
#[tokio::test]
async fn a_revocation_list_that_expires_ends_links_without_a_reload() {
    let echo = Echo::start();
    let mut cluster = with_list(&echo, Span::seconds(20));
    start_all(&mut cluster).await;
    until_refused(cluster.relay("a-1"), "crl_expired").await;
    cluster.until_unlinked("a-1", "b").await;
}

// C-L2, O-S2: certificates of both sides change a hundred times under load, and a call outlives several of them.
#[tokio::test]
async fn a_hundred_reloads_of_certificates_under_load_fail_no_call() {
    let echo = Echo::start();
    let cluster = start_with(&echo, "peer.link_replace_spread", "1s").await;
    let load = Load::start(&cluster, "uid=b:1").await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let asked = request(
        Bytes::from_static(b"long"),
        &[("strait-key", "uid=b:1"), ("x-delay-ms", "6000")],
    );
    let long = tokio::spawn(async move { client.unary("Unary", asked).await });
    for number in 0..100 {
        let unit = if number % 2 == 0 { "a" } else { "b" };
        issue(&cluster, cluster.authority(unit), unit, |_| {});
        reload(cluster.relay(&format!("{unit}-1")), "applied", |_| {}).await;
    }
    until_no_old_link(&cluster).await;
    cluster.until_all_linked().await;
    assert_eq!(
        within("the long call", LIMIT, long)
            .await
            .unwrap()
            .unwrap()
            .into_inner(),
        "long"
    );
    load.end().await;
    for relay in cluster.relays() {
        let replaced = ended(relay, "replaced").await;
        assert!(replaced >= 4.0, "{}: {replaced} links replaced", relay.name);
    }
    only_replaced(&cluster).await;
}

// O-S2, T28: renewed in time, no link meets the end of its certificate and no call notices.
#[tokio::test]
async fn links_are_replaced_before_their_certificates_expire() {
    let echo = Echo::start();
    let mut builder = Cluster::pair(&echo.endpoint());
    for unit in ["a", "b"] {
        builder = builder
            .set(unit, "peer.link_expiry_margin", "15s")
            .set(unit, "peer.link_replace_spread", "1h");
    }
    let mut cluster = builder.prepare();
    for unit in ["a", "b"] {
        issue(&cluster, cluster.authority(unit), unit, |leaf| {
            leaf.ends = Span::seconds(30);
        });
    }
    start_all(&mut cluster).await;
    let load = Load::start(&cluster, "uid=b:1").await;
    // With a spread of an hour it is the margin alone that has the links replaced.
    for unit in ["a", "b"] {
        issue(&cluster, cluster.authority(unit), unit, |_| {});
        reload(cluster.relay(&format!("{unit}-1")), "applied", |_| {}).await;
    }
    until_no_old_link(&cluster).await;
    load.end().await;
    only_replaced(&cluster).await;
}

// O-S2, T4: nobody renewed: links end before the certificate does, not after.
#[tokio::test]
async fn links_whose_certificate_is_not_renewed_end_before_it_expires() {
    let echo = Echo::start();
    let mut cluster = Cluster::pair(&echo.endpoint()).prepare();
    issue(&cluster, cluster.authority("b"), "b", |leaf| {
        leaf.ends = Span::seconds(20);
    });
    start_all(&mut cluster).await;
    let page = certificates(cluster.relay("a-1")).await;
    for link in page["links"].as_array().unwrap() {
        let (ends, expires) = (
            link["ends_at"].as_i64().unwrap(),
            link["peer"]["not_after"].as_i64().unwrap(),
        );
        assert!(ends < expires, "{link}");
    }
    let relay = cluster.relay("a-1");
    wait_for("links to end", LIMIT, async || {
        (ended(relay, "expired").await > 0.0).then_some(())
    })
    .await;
    cluster.until_unlinked("a-1", "b").await;
    let client = Client::connect(&relay.grpc()).await;
    let asked = request(Bytes::from_static(b"m"), &[("strait-key", "uid=b:1")]);
    assert_eq!(
        client.unary("Unary", asked).await.unwrap_err().code(),
        Code::Unavailable
    );
}

// I11: age alone has links replaced, again and again, and no call fails.
#[tokio::test]
async fn links_are_replaced_by_age() {
    let echo = Echo::start();
    let cluster = start_with(&echo, "peer.link_age_max", "20s").await;
    let load = Load::start(&cluster, "uid=b:1").await;
    wait_for("links to be replaced twice", LIMIT, async || {
        (ended(cluster.relay("a-1"), "replaced").await >= 8.0).then_some(())
    })
    .await;
    load.end().await;
    only_replaced(&cluster).await;
}

// O-S2: a new authority takes over in three steps, and nobody is cut off.
#[tokio::test]
async fn old_and_new_roots_are_trusted_side_by_side() {
    let echo = Echo::start();
    let cluster = start_with(&echo, "peer.link_replace_spread", "1s").await;
    let load = Load::start(&cluster, "uid=b:1").await;
    let next = Authority::new("geo-b");
    for relay in cluster.relays() {
        next.add_to_bundle(&relay.directory().join("ca-geo-b.pem"));
        reload(relay, "applied", |_| {}).await;
    }
    issue(&cluster, &next, "b", |_| {});
    reload(cluster.relay("b-1"), "applied", |_| {}).await;
    until_no_old_link(&cluster).await;
    for relay in cluster.relays() {
        next.write_bundle(&relay.directory().join("ca-geo-b.pem"));
        reload(relay, "applied", |_| {}).await;
    }
    load.end().await;
    only_replaced(&cluster).await;
    // The other way round: without the new root its links end.
    let relay = cluster.relay("a-1");
    cluster
        .authority("b")
        .write_bundle(&relay.directory().join("ca-geo-b.pem"));
    reload(relay, "applied", |_| {}).await;
    until_refused(relay, "unknown_issuer").await;
    cluster.until_unlinked("a-1", "b").await;
}

// T24, O-S2: whatever is wrong with new credentials, the old ones stay in force, and an alarm can see it.
#[tokio::test]
async fn a_bad_new_certificate_is_refused_and_the_old_one_kept() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let relay = cluster.relay("a-1");
    let load = Load::start(&cluster, "uid=b:1").await;
    let own = certificates(relay).await["own"].clone();
    let refused = async || relay.metrics().await.sum("strait_settings_refused", &[]);
    let bad: [(&str, Spoil); 4] = [
        ("expired", |cluster| {
            issue(cluster, cluster.authority("a"), "a", |leaf| leaf.ends = -Span::MINUTE);
        }),
        ("of another unit", |cluster| {
            issue(cluster, cluster.authority("a"), "a", |leaf| {
                leaf.uris = vec![format!("spiffe://{DOMAIN}/geo/geo-a/unit/x/relay/a-1")];
            });
        }),
        ("of another authority", |cluster| {
            issue(cluster, cluster.authority("b"), "a", |_| {});
        }),
        ("with another key", |cluster| {
            let key = std::fs::read(cluster.relay("b-1").directory().join("relay.key")).unwrap();
            issue(cluster, cluster.authority("a"), "a", |_| {});
            std::fs::write(cluster.relay("a-1").directory().join("relay.key"), key).unwrap();
        }),
    ];
    for (what, make) in bad {
        make(&cluster);
        reload(relay, "refused", |_| {}).await;
        assert_eq!(certificates(relay).await["own"], own, "{what}");
        assert_eq!(refused().await, 1.0, "{what}");
    }
    issue(&cluster, cluster.authority("a"), "a", |_| {});
    reload(relay, "applied", |_| {}).await;
    assert_ne!(certificates(relay).await["own"], own);
    assert_eq!(refused().await, 0.0);
    load.end().await;
    only_replaced(&cluster).await;
}

// O-S2: who still uses the old certificate can be asked.
#[tokio::test]
async fn cert_status_shows_who_uses_the_old_certificate() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "peer.link_replace_spread", "1000h")
        .start()
        .await;
    let relay = cluster.relay("a-1");
    let status = |output: &str| {
        let arguments = ["cert", "status", "--admin", &relay.admin(), "--output", output];
        let done = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(arguments)
            .output()
            .unwrap();
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    let (code, text) = status("human");
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("spiffe://strait.test/geo/geo-a/unit/a/relay/a-1"),
        "{text}"
    );
    assert!(text.contains("geo-b/b/b-1  dialled"), "{text}");
    assert!(!text.contains("OLD"), "{text}");
    issue(&cluster, cluster.authority("a"), "a", |_| {});
    reload(relay, "applied", |_| {}).await;
    let (code, text) = status("human");
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("own   OLD"), "{text}");
    let (code, text) = status("json");
    assert_eq!(code, Some(2), "{text}");
    let page: Value = serde_json::from_str(&text).unwrap();
    let links = page["links"].as_array().unwrap();
    assert_eq!(links.len(), 4, "two shards, both directions: {text}");
    assert!(
        links
            .iter()
            .all(|link| link["own_is_old"] == true && link["peer_is_old"] == false)
    );
    assert_ne!(links[0]["own"]["fingerprint"], page["own"]["fingerprint"]);
    drop(echo);
}
