//! `xblade metrics`: all counters for Prometheus, as text or as an answer to an HTTP request.

use std::io::{BufRead as _, Read as _};
use std::process::ExitCode;

use anyhow::Result;

use super::args::MetricsArgs;
use super::client::ControlClient;
use crate::cli::output;
use crate::control::api::types::{ControlRequest, MetricsFormat};

/// Longest HTTP request that is read.
const REQUEST_BYTES_MAX: u64 = 16 << 10;
const OPEN_METRICS: &str = "application/openmetrics-text";
const OPEN_METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(in crate::cli) fn metrics(args: &MetricsArgs) -> Result<ExitCode> {
    let text = |format| -> Result<String> {
        ControlClient::new(&args.target)?.ask(&ControlRequest::Metrics { format })
    };
    if args.http {
        output::print(answer(&request(), text))?;
    } else {
        let format = match args.format.as_str() {
            "text" => MetricsFormat::Text,
            _ => MetricsFormat::OpenMetrics,
        };
        output::print(text(format)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What somebody asks for.
struct Asked {
    /// The request line.
    line: String,
    format: MetricsFormat,
}

/// Reads the request up to the empty line, so that closing the connection loses no answer.
fn request() -> Asked {
    let lines = std::io::stdin().lock().take(REQUEST_BYTES_MAX).lines();
    asked(lines.map_while(Result::ok))
}

fn asked(mut lines: impl Iterator<Item = String>) -> Asked {
    let line = lines.next().unwrap_or_default();
    let mut format = MetricsFormat::Text;
    for header in lines.take_while(|line| !line.trim().is_empty()) {
        let (name, value) = header.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("accept") && value.contains(OPEN_METRICS) {
            format = MetricsFormat::OpenMetrics;
        }
    }
    Asked { line, format }
}

fn answer(asked: &Asked, text: impl FnOnce(MetricsFormat) -> Result<String>) -> String {
    let mut words = asked.line.split(' ');
    let (status, kind, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/metrics" | "/")) => match (text(asked.format), asked.format) {
            (Ok(text), MetricsFormat::OpenMetrics) => ("200 OK", OPEN_METRICS_TYPE, text),
            (Ok(text), MetricsFormat::Text) => ("200 OK", TEXT_TYPE, text),
            (Err(error), _) => ("503 Service Unavailable", "text/plain", format!("{error:#}\n")),
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

    fn get(request: &str) -> Asked {
        asked(request.lines().map(str::to_owned))
    }

    #[test]
    fn scrapers_get_the_text_and_others_an_error() {
        let metrics = get("GET /metrics HTTP/1.1");
        let good = answer(&metrics, |_| Ok("a 1\n".into()));
        assert!(
            good.starts_with("HTTP/1.1 200 OK\r\n") && good.ends_with("\r\n\r\na 1\n"),
            "{good}"
        );
        assert!(good.contains("Content-Length: 4\r\n"));
        let down = answer(&metrics, |_| anyhow::bail!("no target"));
        assert!(
            down.starts_with("HTTP/1.1 503 ") && down.ends_with("no target\n"),
            "{down}"
        );
        let error = |request| answer(&get(request), |_| Ok(String::new()));
        assert!(error("GET /x HTTP/1.1").starts_with("HTTP/1.1 404 "));
        assert!(error("").starts_with("HTTP/1.1 400 "));
    }

    #[test]
    fn scrapers_get_the_format_that_they_accept() {
        let new = "GET /metrics HTTP/1.1\r\nHost: x\r\nACCEPT: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n\r\n";
        for (request, kind) in [
            (new, OPEN_METRICS_TYPE),
            (
                "GET /metrics HTTP/1.1\r\n\r\nAccept: application/openmetrics-text",
                TEXT_TYPE,
            ),
        ] {
            let answer = answer(&get(request), |format| Ok(format!("{format:?}")));
            assert!(answer.contains(&format!("Content-Type: {kind}\r\n")), "{answer}");
        }
    }
}
