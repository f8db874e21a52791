//! `xblade bench`: how fast and how right is a target?

mod xdp;

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use aoe_common::wire::SECTOR_BYTES;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::args::BenchArgs;
use crate::control::links;
use crate::initiator::load::{self, Order, Outcome, Plan};
use crate::initiator::{Client, Found, Identity, InitiatorError, Route, Transport, flood};
use xdp::XdpSocket;

/// How long all targets may take to answer.
const DISCOVERY: Duration = Duration::from_secs(1);
/// How long one target may take to answer, even if most of what it gets is lost.
const SEARCH: Duration = Duration::from_secs(3);
/// How long IDENTIFY may take.
const IDENTIFY: Duration = Duration::from_secs(5);
/// What is not measured at the start of a run, unless asked for otherwise.
const WARM_UP: Duration = Duration::from_millis(200);

/// Takes 7.3 and e7.3.
pub(super) fn parse_address(text: &str) -> Result<(u16, u8), String> {
    let wrong = || "a target is SHELF.SLOT, as in 7.3; shelf 0 to 65534, slot 0 to 254".to_owned();
    let (shelf, slot) = text
        .strip_prefix('e')
        .unwrap_or(text)
        .split_once('.')
        .ok_or_else(wrong)?;
    match (shelf.parse(), slot.parse()) {
        (Ok(shelf), Ok(slot)) if shelf != u16::MAX && slot != u8::MAX => Ok((shelf, slot)),
        _ => Err(wrong()),
    }
}

/// Takes 10, 1.5s, 500ms and 2m.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        _ => return Err("a time is a number and s, ms or m".into()),
    };
    let number: f64 = number
        .parse()
        .map_err(|_| "a time is a number and s, ms or m".to_owned())?;
    Duration::try_from_secs_f64(number * unit).map_err(|e| e.to_string())
}

/// Measures; an error when anything did not hold.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if let (Some(kind), Some(rate)) = (args.flood, args.rate) {
        return run_flood(args, kind, rate);
    }
    let mut client = Client::open(&args.interface)?;
    let target = choose(&mut client, args)?;
    let identity = client.identify(&target, IDENTIFY)?;
    let plan = plan(args, client.route(&target), &target, &identity)?;
    let mtu_bytes = client.socket().mtu_bytes();
    if !args.json {
        println!("{}", headline(args, &target, &identity, mtu_bytes));
    }
    let (way, outcome) = if args.af_xdp {
        let rx_queues = links::rx_queues(&args.interface).unwrap_or(1);
        let mut socket = XdpSocket::open(client.into_socket(), rx_queues, plan.depth)?;
        let way = format!("AF_XDP, {}", socket.mode());
        let outcome = measure(&mut socket, &plan, args, &way);
        (way, outcome)
    } else {
        let way = "AF_PACKET".to_owned();
        let outcome = measure(&mut client.into_socket(), &plan, args, &way);
        (way, outcome)
    };
    let outcome = outcome?;
    if args.json {
        let mut json = to_json(args, &plan, &target, &identity, mtu_bytes, &outcome);
        json["transport"] = way.into();
        println!("{json}");
    } else {
        print!("{}", table(&plan, &outcome));
    }
    ensure!(
        outcome.holds(),
        "{}.{} did not hold: {} errors, {} mismatches, {} requests unanswered",
        target.shelf,
        target.slot,
        outcome.errors,
        outcome.mismatches,
        outcome.timeouts
    );
    Ok(())
}

/// Runs the plan and shows how far it is.
fn measure(
    transport: &mut impl Transport,
    plan: &Plan,
    args: &BenchArgs,
    way: &str,
) -> Result<Outcome, InitiatorError> {
    if !args.json {
        println!("{}, through {way}", describe(plan));
    }
    let bar = progress_bar(plan);
    let outcome = load::run(transport, plan, |so_far, elapsed| {
        show(&bar, plan, so_far, elapsed);
    });
    bar.finish_and_clear();
    outcome
}

/// The target that the arguments mean.
fn choose(client: &mut Client, args: &BenchArgs) -> anyhow::Result<Found> {
    let mut found = match (args.address, args.mac) {
        (Some((shelf, slot)), None) => client.find(shelf, slot, SEARCH)?.into_iter().collect(),
        (address, _) => client.discover(address, DISCOVERY)?,
    };
    found.retain(|target| args.mac.is_none_or(|mac| mac == target.mac));
    match found.len() {
        0 => {
            let who = args.address.map_or_else(
                || "no target".into(),
                |(shelf, slot)| format!("no target {shelf}.{slot}"),
            );
            bail!(
                "{}: {who} answers (is it up, on this network, and does its access list have {}?)",
                args.interface,
                client.socket().mac()
            )
        }
        1 => Ok(found.remove(0)),
        count => {
            let list: Vec<String> = found
                .iter()
                .map(|t| {
                    format!(
                        "  {}.{} at {}, up to {} sectors a request",
                        t.shelf, t.slot, t.mac, t.sectors
                    )
                })
                .collect();
            bail!(
                "{}: {count} targets answer, choose one by its address (and --mac):\n{}",
                args.interface,
                list.join("\n")
            )
        }
    }
}

fn plan(args: &BenchArgs, route: Route, target: &Found, identity: &Identity) -> anyhow::Result<Plan> {
    let read_percent = args.mix.unwrap_or(if args.write { 0 } else { 100 });
    ensure!(
        read_percent == 100 || args.destroy_data,
        "writes destroy what {}.{} holds: say --destroy-data if that is wanted",
        target.shelf,
        target.slot
    );
    let sectors = args.sectors.unwrap_or(target.sectors);
    ensure!(
        target.sectors > 0,
        "{}: no request of a sector fits its MTU: 548 bytes are needed (`ip link set {} mtu 1500`)",
        args.interface,
        args.interface
    );
    ensure!(
        sectors <= target.sectors,
        "--sectors {sectors}: target and MTU allow {} sectors a request",
        target.sectors
    );
    let span = args
        .span
        .unwrap_or_else(|| identity.sectors.saturating_sub(args.first));
    let end = args
        .first
        .checked_add(span)
        .filter(|&end| end <= identity.sectors);
    ensure!(
        end.is_some(),
        "--first and --span: the target has {} sectors",
        identity.sectors
    );
    let plan = Plan {
        route,
        read_percent,
        order: if args.sequential {
            Order::Sequential
        } else {
            Order::Random
        },
        sectors,
        depth: args.depth,
        duration: args.duration.unwrap_or(if args.count.is_some() {
            Duration::MAX
        } else {
            Duration::from_secs(10)
        }),
        count: args.count,
        warmup: args.warmup.unwrap_or(if args.count.is_some() {
            Duration::ZERO
        } else {
            WARM_UP
        }),
        first: args.first,
        span,
        verify: args.verify,
        seed: args.seed.unwrap_or_else(seed_by_chance),
        give_up: args.timeout,
    };
    ensure!(
        plan.blocks() > 0,
        "the span of {span} sectors holds no request of {sectors}"
    );
    // otherwise most draws would hit a block that has a request already
    ensure!(
        !plan.verify || plan.blocks() >= 2 * u64::from(plan.depth),
        "--verify needs a span of at least {} sectors for --depth {}",
        2 * u64::from(plan.depth) * u64::from(sectors),
        plan.depth
    );
    Ok(plan)
}

fn seed_by_chance() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()) as u32
}

fn headline(args: &BenchArgs, target: &Found, identity: &Identity, mtu_bytes: u32) -> String {
    let size_mib = identity.sectors as f64 * SECTOR_BYTES as f64 / f64::from(1 << 20);
    format!(
        "{}.{} at {} through {} (MTU {mtu_bytes}): {} {}, {size_mib:.1} MiB, {} buffers, up to {} sectors a request",
        target.shelf,
        target.slot,
        target.mac,
        args.interface,
        identity.model,
        identity.firmware,
        target.buffers,
        target.sectors,
    )
}

fn describe(plan: &Plan) -> String {
    let order = match plan.order {
        Order::Random => "random",
        Order::Sequential => "sequential",
    };
    let what = match plan.read_percent {
        100 => "reads".into(),
        0 => "writes".into(),
        percent => format!("reads ({percent} %) and writes"),
    };
    let verified = if plan.verify {
        format!(", verified (seed {})", plan.seed)
    } else {
        String::new()
    };
    let kib = plan.sectors as usize as f64 * SECTOR_BYTES as f64 / 1024.0;
    format!("{order} {what} of {kib} KiB, depth {}{verified}", plan.depth)
}

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(plan: &Plan) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let length = plan
        .count
        .unwrap_or((plan.warmup + plan.duration).as_millis() as u64);
    let style =
        ProgressStyle::with_template("{wide_bar} {percent:>3} % {msg}").expect("the template is well-formed");
    ProgressBar::new(length).with_style(style)
}

fn show(bar: &ProgressBar, plan: &Plan, so_far: &Outcome, elapsed: Duration) {
    bar.set_position(if plan.count.is_some() {
        so_far.requests
    } else {
        elapsed.as_millis() as u64
    });
    let rate = so_far.requests as f64 / elapsed.saturating_sub(plan.warmup).as_secs_f64().max(1e-3);
    bar.set_message(format!("{rate:.0} requests/s"));
}

fn table(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = format!(
        "\nrequests   {:>12}  {:>10.0}/s  {:>9.1} MiB/s  in {:.2} s\n",
        outcome.requests,
        outcome.rps(),
        outcome.mibs(),
        outcome.elapsed.as_secs_f64()
    );
    text += "latency         p50       p90       p99     p99.9       max      mean\n     µs  ";
    for us in [0.5, 0.9, 0.99, 0.999]
        .map(|q| outcome.latency_us(q))
        .into_iter()
        .chain([outcome.max_us(), outcome.mean_us()])
    {
        text += &format!("{us:>10.1}");
    }
    text += &format!(
        "\nretransmits {}, errors {}, unanswered {}\n",
        outcome.retransmits, outcome.errors, outcome.timeouts
    );
    if plan.verify {
        text += &format!(
            "verified {}, mismatches {}, without a stamp {}, read back {}\n",
            outcome.verified, outcome.mismatches, outcome.unstamped, outcome.read_back
        );
    }
    if outcome.percent(outcome.idle) < 5.0 {
        text += "the generator was busy all the time: the target may be faster than this\n";
    }
    if outcome.percent(outcome.starved) > 5.0 {
        text += &format!(
            "the generator waited for a cpu {:.0} % of the time: others disturbed the run\n",
            outcome.percent(outcome.starved)
        );
    }
    for note in &outcome.notes {
        text += &format!("! {note}\n");
    }
    text
}

fn to_json(
    args: &BenchArgs,
    plan: &Plan,
    target: &Found,
    identity: &Identity,
    mtu_bytes: u32,
    outcome: &Outcome,
) -> Value {
    let mut json = outcome.to_json();
    let about = json!({
        "interface": args.interface,
        "mtu": mtu_bytes,
        "address": format!("{}.{}", target.shelf, target.slot),
        "mac": target.mac.to_string(),
        "model": identity.model,
        "serial": identity.serial,
        "size": identity.sectors,
        "buffers": target.buffers,
        "sectors": plan.sectors,
        "depth": plan.depth,
        "read_percent": plan.read_percent,
        "sequential": plan.order == Order::Sequential,
        "verify": plan.verify,
        "seed": plan.seed,
        "holds": outcome.holds(),
    });
    if let (Value::Object(figures), Value::Object(about)) = (&mut json, about) {
        figures.extend(about);
    }
    json
}

fn run_flood(args: &BenchArgs, kind: flood::Kind, rate: u32) -> anyhow::Result<()> {
    let (shelf, slot) = args.address.context("a flood needs the address SHELF.SLOT")?;
    let mut client = Client::open(&args.interface)?;
    let destination = match args.mac {
        Some(mac) => mac,
        None => choose(&mut client, args)?.mac,
    };
    let route = Route {
        source: client.socket().mac(),
        destination,
        shelf,
        slot,
    };
    let duration = args.duration.unwrap_or(Duration::from_secs(10));
    // Its socket hears answers, and every frame that somebody hears costs somebody.
    drop(client);
    let flooded = flood::run(&args.interface, kind, &route, rate, duration)?;
    let seconds = flooded.elapsed.as_secs_f64();
    println!(
        "{}",
        json!({ "sent": flooded.sent, "seconds": seconds, "rate": flooded.sent as f64 / seconds })
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_linux_and_as_vblade_write_them() {
        assert_eq!(parse_address("7.3"), Ok((7, 3)));
        assert_eq!(parse_address("e65534.254"), Ok((65534, 254)));
        for bad in ["", "7", "7.", ".3", "65535.0", "0.255", "7.3.1", "x.y", "-1.2"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(parse_time("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_time("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "-1", "5h", "1s5"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
