//! The table on the terminal, the JSON and the charts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::bars::{Bar, Limit};
use super::contender::Contender;
use super::results::{Results, Series};
use super::{Bench, chart};

/// Everything, for a person.
pub(super) fn text(results: &Results, bars: &[Bar]) -> String {
    let mut text = String::new();
    let mut stage = "";
    for series in &results.series {
        if series.stage != stage {
            stage = &series.stage;
            let _ = write!(
                text,
                "\n{stage}\n{:34} {:8} {:>10} {:>23} {:>6} {:>6} {:>8} {:>8} {:>7} {:>7}\n",
                "", "", "requests/s", "min – max", "ratio", "bound", "p50 µs", "p99 µs", "T µs", "S µs"
            );
        }
        text += &line(results, series);
    }
    if !results.facts.is_empty() {
        text += "\nsingle values\n";
    }
    let mut seen: Vec<(&str, Contender)> = Vec::new();
    for fact in &results.facts {
        if !seen.contains(&(&fact.name, fact.contender)) {
            seen.push((&fact.name, fact.contender));
            let value = results.value(&fact.name, fact.contender).unwrap_or(f64::NAN);
            let _ = writeln!(text, "{:78} {:8} {value:>8.2}", fact.name, fact.contender.name());
        }
    }
    text += "\nbars\n";
    for bar in bars {
        let _ = writeln!(text, "{:88} {:>6}  {}", bar.what, limit(bar.wanted), verdict(bar));
    }
    for failure in &results.failures {
        let _ = writeln!(text, "failed: {failure}");
    }
    text += "\nratio: to vblade; bound: to the echo, or to fio on the same file; T and S: CPU for a request, of the target and of the whole machine, generator included;\n\
             *: the generator was the limit; !: requests failed; ~: others took the generator's cpu; \
             x: it used AF_XDP\n";
    text
}

fn line(results: &Results, series: &Series) -> String {
    let rps = series.median(|run| run.result.rps);
    let (low, high) = series.range();
    let to = |peer: Contender| {
        let peer = results.find(&series.stage, &series.load, peer)?;
        Some(rps / peer.median(|run| run.result.rps))
    };
    let ratio = number(to(Contender::Vblade), 2);
    let bound = number(to(Contender::Echo).or_else(|| to(Contender::Fio)), 2);
    let mark = |yes: bool, mark: &str| if yes { mark.to_owned() } else { String::new() };
    let marks = mark(series.median(|run| run.result.generator_idle_pct) < 5.0, "*")
        + &mark(
            series
                .runs
                .iter()
                .any(|run| run.result.errors + run.result.timeouts > 0),
            "!",
        )
        + &mark(series.median(|run| run.result.generator_starved_pct) > 5.0, "~")
        + &mark(series.runs.iter().any(|run| run.result.by_af_xdp()), "x");
    format!(
        "{:34} {:8} {rps:>10.0} {:>23} {ratio:>6} {bound:>6} {:>8} {:>8} {:>7} {:>7} {marks}\n",
        series.load,
        series.contender.name(),
        format!("{low:.0} – {high:.0}"),
        number(Some(series.median(|run| run.result.lat_us.p50)), 1),
        number(Some(series.median(|run| run.result.lat_us.p99)), 1),
        number(Some(series.median(|run| run.target_us)), 2),
        number(Some(series.median(|run| run.system_us)), 2),
    )
}

/// A dash where there is none.
fn number(value: Option<f64>, digits: usize) -> String {
    match value.filter(|value| value.is_finite()) {
        Some(value) => format!("{value:.digits$}"),
        None => "–".to_owned(),
    }
}

fn limit(limit: Limit) -> String {
    match limit {
        Limit::AtLeast(value) => format!("≥ {value}"),
        Limit::AtMost(value) => format!("≤ {value}"),
    }
}

fn verdict(bar: &Bar) -> String {
    match bar.measured {
        None => "not measured".into(),
        Some(value) if bar.holds() => format!("PASS  {value:.2}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Writes `bench.json` and the charts into a directory.
pub(super) fn write(directory: &Path, bench: &Bench, bars: &[Bar]) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let command = if bench.quick {
        "cargo xtask bench --quick"
    } else {
        "cargo xtask bench"
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What a distribution or a cloud adds says nothing to others.
    let kernel = release.split('-').next().unwrap_or_default();
    let json = json!({
        "command": command,
        "kernel": kernel.trim(),
        "rounds": bench.rounds,
        "seconds": bench.seconds,
        "bars": bars,
        "results": bench.results,
    });
    let save = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    save(
        "bench.json",
        &format!("{}\n", serde_json::to_string_pretty(&json)?),
    )?;
    for (name, svg) in chart::all(&bench.results) {
        save(name, &svg)?;
    }
    Ok(())
}
