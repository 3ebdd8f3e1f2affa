//! Reads the admin port of a relay.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// `GET`; gives status and body.
///
/// # Errors
/// If nothing answers, or not in HTTP.
pub async fn http_get(address: &str, path: &str) -> io::Result<(u16, String)> {
    http(address, "GET", path).await
}

/// `POST` without a body; gives status and body.
///
/// # Errors
/// If nothing answers, or not in HTTP.
pub async fn http_post(address: &str, path: &str) -> io::Result<(u16, String)> {
    http(address, "POST", path).await
}

/// `PUT` without a body; gives status and body.
///
/// # Errors
/// If nothing answers, or not in HTTP.
pub async fn http_put(address: &str, path: &str) -> io::Result<(u16, String)> {
    http(address, "PUT", path).await
}

/// `POST` of JSON; gives status and body.
///
/// # Errors
/// If nothing answers, or not in HTTP.
pub async fn http_post_body(address: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    http_with(address, "POST", path, body).await
}

async fn http(address: &str, method: &str, path: &str) -> io::Result<(u16, String)> {
    http_with(address, method, path, "").await
}

async fn http_with(address: &str, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|text| text.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer")),
    }
}

/// One scrape of `/metrics`.
pub struct Metrics(Vec<Sample>);

struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads the Prometheus text format.
    pub fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .filter_map(sample)
                .collect(),
        )
    }

    /// Sum of the series of this name that carry all these labels; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether there is such a series.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// Names of all series, once each.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|sample| sample.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.iter().any(|(k, v)| k == key && v == value))
        })
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""))
        .map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned()))
        .collect();
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_the_labels_not_asked_for() {
        let text = "# TYPE x counter\nx{a=\"1\",b=\"p\"} 2\nx{a=\"1\",b=\"q\"} 3\nx{a=\"2\",b=\"p\"} 5\ny 7\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.sum("x", &[("a", "1")]), 5.0);
        assert_eq!(metrics.sum("x", &[]), 10.0);
        assert_eq!(metrics.sum("y", &[]), 7.0);
        assert!(!metrics.has("x", &[("a", "3")]));
        assert_eq!(metrics.names(), ["x", "y"]);
    }
}
