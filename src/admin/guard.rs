//! Keeps web pages out (A3): a browser runs foreign pages next to this address.
//!
//! A page can send requests here, but cannot choose two fields: `Host` is the name in the page's own
//! address if that name was made to point here, and `Origin` names the page on every change.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Refuses what a foreign page would send. `any_host` leaves `Host` open, for addresses that have a name.
pub(super) async fn guard(State(any_host): State<bool>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !any_host && !is_numeric(headers) {
        let text = "the Host field must be an IP address or localhost\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    if !request.method().is_safe() && !is_own_page(headers) {
        let text = "changes are not taken from web pages of another origin\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

fn is_numeric(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, header::HOST) else {
        return false;
    };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

fn is_own_page(headers: &HeaderMap) -> bool {
    match text(headers, header::ORIGIN) {
        Some(origin) => origin.strip_prefix("http://") == text(headers, header::HOST),
        // Not a browser.
        None => !headers.contains_key(header::ORIGIN),
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
