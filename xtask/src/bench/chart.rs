//! Bar charts as SVG, for README and docs.

use svg::Document;
use svg::node::element::{Line, Rectangle, Text, Title};

use super::contender::Contender;
use super::disk::{SYNC, WRITES};
use super::flood::{KINDS, kept};
use super::results::Results;
use super::stages::{RAM_1500, RAM_9000};

const WIDTH: f64 = 760.0;
const LABELS: f64 = 250.0;
const VALUES: f64 = 90.0;
const BAR: f64 = 16.0;
const GROUP_GAP: f64 = 12.0;
const TOP: f64 = 64.0;

/// One bar: who, how much, and the smallest and largest of the rounds.
struct Bar {
    contender: Contender,
    value: f64,
    range: Option<(f64, f64)>,
}

/// Bars that belong together.
struct Group {
    label: String,
    bars: Vec<Bar>,
}

/// Every chart that there are figures for, with its file's name.
pub(super) fn all(results: &Results) -> Vec<(&'static str, String)> {
    let rates = |stage: &str| groups(results, stage);
    let charts = [
        (
            "mtu-1500.svg",
            "1 KiB requests, MTU 1500, image in RAM",
            "thousand requests/s",
            rates(RAM_1500),
        ),
        (
            "mtu-9000.svg",
            "8 KiB requests, MTU 9000, image in RAM",
            "thousand requests/s",
            rates(RAM_9000),
        ),
        ("cpu.svg", "CPU of the target for a request", "µs", cpu(results)),
        (
            "disk.svg",
            "Random 1 KiB writes to ext4",
            "thousand requests/s",
            {
                let mut groups = rates(WRITES);
                groups.extend(rates(SYNC).into_iter().map(|group| Group {
                    label: format!("{} (sync)", group.label),
                    ..group
                }));
                groups
            },
        ),
        (
            "flood.svg",
            "Rate kept beside 200 000 unwanted frames/s",
            "%",
            floods(results),
        ),
    ];
    charts
        .into_iter()
        .filter(|(_, _, _, groups)| !groups.is_empty())
        .map(|(name, title, unit, groups)| (name, draw(title, unit, &groups)))
        .collect()
}

/// The rates of a stage, in thousands a second.
fn groups(results: &Results, stage: &str) -> Vec<Group> {
    by_load(results, stage, |series| {
        let (low, high) = series.range();
        (
            series.median(|run| run.result.rps) / 1e3,
            Some((low / 1e3, high / 1e3)),
        )
    })
}

fn cpu(results: &Results) -> Vec<Group> {
    [RAM_1500, RAM_9000]
        .into_iter()
        .flat_map(|s| by_load(results, s, |s| (s.median(|run| run.target_us), None)))
        .collect()
}

fn by_load(
    results: &Results,
    stage: &str,
    figure: impl Fn(&super::results::Series) -> (f64, Option<(f64, f64)>),
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for series in results.series.iter().filter(|series| series.stage == stage) {
        let (value, range) = figure(series);
        let bar = Bar {
            contender: series.contender,
            value,
            range,
        };
        match groups.iter_mut().find(|group| group.label == series.load) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group {
                label: series.load.clone(),
                bars: vec![bar],
            }),
        }
    }
    groups
}

fn floods(results: &Results) -> Vec<Group> {
    let group = |kind: &&str| {
        let bar = |contender| {
            let value = 100.0 * results.value(&kept(kind), contender)?;
            Some(Bar {
                contender,
                value,
                range: None,
            })
        };
        let bars: Vec<Bar> = [Contender::Xblade, Contender::Vblade]
            .into_iter()
            .filter_map(bar)
            .collect();
        (!bars.is_empty()).then(|| Group {
            label: (*kind).to_owned(),
            bars,
        })
    };
    KINDS.iter().filter_map(group).collect()
}

const fn colour(contender: Contender) -> &'static str {
    match contender {
        Contender::Xblade => "#0072b2",
        Contender::Vblade => "#999999",
        Contender::Ggaoed => "#e69f00",
        Contender::Nbdkit => "#009e73",
        Contender::QemuNbd => "#cc79a7",
        Contender::Tgt => "#d55e00",
        Contender::Echo => "#56b4e9",
        Contender::Fio => "#f0e442",
    }
}

fn draw(title: &str, unit: &str, groups: &[Group]) -> String {
    let most = groups
        .iter()
        .flat_map(|g| &g.bars)
        .map(|b| b.range.map_or(b.value, |(_, high)| high.max(b.value)));
    let scale = (WIDTH - LABELS - VALUES) / most.fold(f64::MIN_POSITIVE, f64::max);
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + bars as f64 * BAR + groups.len() as f64 * GROUP_GAP + 8.0;
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, height))
        .set("width", WIDTH)
        .set("height", height)
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .set("role", "img")
        .add(Title::new(title))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "#ffffff"),
        )
        .add(
            text(12.0, 22.0, "start", &format!("{title} ({unit})"))
                .set("font-size", 15)
                .set("font-weight", "bold"),
        );
    let mut contenders: Vec<Contender> = groups
        .iter()
        .flat_map(|g| &g.bars)
        .map(|bar| bar.contender)
        .collect();
    contenders.sort();
    contenders.dedup();
    let mut x = LABELS;
    for contender in contenders {
        document = document.add(rectangle(x, 36.0, 12.0, 12.0, colour(contender)));
        document = document.add(text(x + 17.0, 46.0, "start", contender.name()));
        x += 90.0;
    }
    let mut y = TOP;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        document = document.add(text(LABELS - 8.0, middle, "end", &group.label));
        for bar in &group.bars {
            document = document.add(rectangle(
                LABELS,
                y,
                bar.value * scale,
                BAR - 2.0,
                colour(bar.contender),
            ));
            let mut end = bar.value;
            if let Some((low, high)) = bar.range.filter(|(low, high)| low < high) {
                document = document.add(whisker(
                    LABELS + low * scale,
                    LABELS + high * scale,
                    y + BAR / 2.0 - 1.0,
                ));
                end = end.max(high);
            }
            let digits = usize::from(bar.value < 10.0) + usize::from(bar.value < 100.0);
            let value = format!("{:.digits$}", bar.value);
            document = document.add(text(LABELS + end * scale + 5.0, y + BAR - 5.0, "start", &value));
            y += BAR;
        }
        y += GROUP_GAP;
    }
    format!("{document}\n")
}

fn text(x: f64, y: f64, anchor: &str, content: &str) -> Text {
    Text::new(content)
        .set("x", x)
        .set("y", y)
        .set("text-anchor", anchor)
        .set("fill", "#222222")
}

fn rectangle(x: f64, y: f64, width: f64, height: f64, fill: &str) -> Rectangle {
    let width = (width * 10.0).round() / 10.0;
    Rectangle::new()
        .set("x", x)
        .set("y", y)
        .set("width", width)
        .set("height", height)
        .set("fill", fill)
}

fn whisker(low: f64, high: f64, y: f64) -> Line {
    Line::new()
        .set("x1", low)
        .set("x2", high)
        .set("y1", y)
        .set("y2", y)
        .set("stroke", "#222222")
        .set("stroke-width", 1.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_a_bar_for_each_target_and_scales_to_the_longest() {
        let bar = |contender, value| Bar {
            contender,
            value,
            range: Some((value * 0.9, value)),
        };
        let groups = [Group {
            label: "random <reads>".into(),
            bars: vec![bar(Contender::Xblade, 500.0), bar(Contender::Vblade, 250.0)],
        }];
        let svg = draw("Title & more", "unit", &groups);
        assert!(
            svg.contains("&lt;reads&gt;") && svg.contains("Title &amp; more"),
            "{svg}"
        );
        let longest = WIDTH - LABELS - VALUES;
        assert!(svg.contains(&format!("width=\"{longest}\"")), "{svg}");
        assert!(svg.contains(&format!("width=\"{}\"", longest / 2.0)), "{svg}");
    }

    #[test]
    fn nothing_measured_draws_nothing() {
        assert!(all(&Results::default()).is_empty());
    }
}
