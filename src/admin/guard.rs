//! Keeps out web pages (A3), and whoever has no token where one is asked for (A4).
//!
//! A browser runs foreign pages next to this address.
//!
//! A page can send requests here, but cannot choose two fields: `Host` is the name in the page's own
//! address if that name was made to point here, and `Origin` names the page on every change.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::token::TokenFile;

/// Secrets that let someone read, and change.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Lets read.
    pub read: Option<Arc<TokenFile>>,
    /// Lets change, and read.
    pub change: Option<Arc<TokenFile>>,
}

/// What the guard knows of the address.
#[derive(Debug)]
pub(super) struct Rules {
    /// Leaves `Host` open, for addresses that have a name.
    pub(super) any_host: bool,
    pub(super) access: Access,
}

/// Refuses what a foreign page would send, and whoever may not.
pub(super) async fn guard(State(rules): State<Arc<Rules>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !rules.any_host && !is_numeric(headers) {
        let text = "the Host field must be an IP address or localhost\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    let changes = !request.method().is_safe();
    if changes && !is_own_page(headers) {
        let text = "changes are not taken from web pages of another origin\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let is_probe = matches!(request.uri().path(), "/livez" | "/readyz");
    if changes || !is_probe {
        match rules.access.verdict(changes, bearer(headers)) {
            Verdict::Admitted => {}
            Verdict::Closed => {
                let text = "changes need admin.change_token_file in the settings of this relay\n";
                return (StatusCode::FORBIDDEN, text).into_response();
            }
            Verdict::Unknown => {
                let text = "send the token of this address as `Authorization: Bearer <token>`\n";
                let ask = [(header::WWW_AUTHENTICATE, "Bearer")];
                return (StatusCode::UNAUTHORIZED, ask, text).into_response();
            }
        }
    }
    next.run(request).await
}

enum Verdict {
    Admitted,
    /// Nobody may.
    Closed,
    /// Not without another token.
    Unknown,
}

impl Access {
    fn verdict(&self, changes: bool, given: Option<&[u8]>) -> Verdict {
        let admits = |token: &Arc<TokenFile>| token.admits(given);
        let is_admitted = match (changes, &self.read, &self.change) {
            (_, None, None) | (false, None, Some(_)) => true,
            (true, Some(_), None) => return Verdict::Closed,
            (true, _, Some(change)) => admits(change),
            (false, Some(read), change) => admits(read) || change.as_ref().is_some_and(admits),
        };
        if is_admitted {
            Verdict::Admitted
        } else {
            Verdict::Unknown
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().as_bytes())
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
