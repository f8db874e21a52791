//! `xblade metrics`: all counters for Prometheus, as text or as an answer to an HTTP request.

use std::io::{BufRead as _, Read as _};
use std::process::ExitCode;

use anyhow::Result;

use super::args::MetricsArgs;
use super::client::Client;
use crate::cli::output;
use crate::control::api::types::Request;

/// Longest HTTP request that is read.
const REQUEST_BYTES_MAX: u64 = 16 << 10;
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(in crate::cli) fn metrics(args: &MetricsArgs) -> Result<ExitCode> {
    let text = || -> Result<String> { Client::new(&args.target)?.ask(&Request::Metrics {}) };
    if args.http {
        output::print(answer(&request(), text))?;
    } else {
        output::print(text()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The request line; what follows is read up to the empty line, so that closing the connection loses no answer.
fn request() -> String {
    let mut lines = std::io::stdin().lock().take(REQUEST_BYTES_MAX).lines();
    let first = lines.next().and_then(Result::ok).unwrap_or_default();
    lines
        .map_while(Result::ok)
        .take_while(|line| !line.trim().is_empty())
        .for_each(drop);
    first
}

fn answer(request: &str, text: impl FnOnce() -> Result<String>) -> String {
    let mut words = request.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics" | "/")) => match text() {
            Ok(text) => ("200 OK", CONTENT_TYPE, text),
            Err(error) => ("503 Service Unavailable", "text/plain", format!("{error:#}\n")),
        },
        (Some("GET"), Some(_)) => ("404 Not Found", "text/plain", "try /metrics\n".to_owned()),
        _ => (
            "400 Bad Request",
            "text/plain",
            "GET /metrics is all there is\n".to_owned(),
        ),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_the_text_and_others_an_error() {
        let good = answer("GET /metrics HTTP/1.1", || Ok("# EOF\n".into()));
        assert!(
            good.starts_with("HTTP/1.1 200 OK\r\n") && good.ends_with("\r\n\r\n# EOF\n"),
            "{good}"
        );
        assert!(good.contains("Content-Length: 6\r\n"));
        let down = answer("GET /metrics HTTP/1.1", || anyhow::bail!("no target"));
        assert!(
            down.starts_with("HTTP/1.1 503 ") && down.ends_with("no target\n"),
            "{down}"
        );
        assert!(answer("GET /x HTTP/1.1", || Ok(String::new())).starts_with("HTTP/1.1 404 "));
        assert!(answer("", || Ok(String::new())).starts_with("HTTP/1.1 400 "));
    }
}
