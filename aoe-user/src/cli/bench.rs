//! `xblade bench`: how fast and how right is a target?

mod report;
mod xdp;

use std::io::{IsTerminal, stderr};
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::args::BenchArgs;
use super::interrupt::Interrupt;
use super::output::{self, Shown};
use crate::host;
use crate::initiator::load::{self, LoadOrder, LoadOutcome, LoadPlan};
use crate::initiator::{Client, DiskIdentity, Found, Route, Transport, flood};
use report::{Run, SCHEMA};
use xdp::XdpSocket;

/// How long all targets may take to answer.
const DISCOVERY: Duration = Duration::from_secs(1);
/// How long one target may take to answer, even if most of what it gets is lost.
const SEARCH: Duration = Duration::from_secs(3);
/// How long IDENTIFY may take.
const IDENTIFY: Duration = Duration::from_secs(5);
/// What is not measured at the start of a run, unless asked for otherwise.
const WARM_UP: Duration = Duration::from_millis(200);

/// Measures; an error when anything did not hold.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match (args.flood, args.rate) {
        (Some(kind), Some(rate)) => run_flood(args, kind, rate),
        _ => run_load(args).and_then(|run| show(args, &run)),
    }
}

fn run_load(args: &BenchArgs) -> anyhow::Result<Run> {
    let mut client = Client::open(&args.interface)?;
    let target = choose(&mut client, args)?;
    let identity = client.identify(&target, IDENTIFY)?;
    let plan = plan(args, client.route(&target), &target, &identity)?;
    let mtu_bytes = client.socket().mtu_bytes();
    if !args.json {
        output::line(report::headline(args, &target, &identity, mtu_bytes))?;
    }
    // Before the interface is changed: what comes from here on ends the measurement, and the interface is an ordinary one again.
    let interrupt = Interrupt::catch()?;
    let (transport, outcome) = if args.af_xdp {
        let rx_queues = host::rx_queues(&args.interface).unwrap_or(1);
        let mut socket = XdpSocket::open(client.into_socket(), rx_queues, plan.depth)?;
        let transport = format!("AF_XDP, {}", socket.mode());
        let outcome = measure(&mut socket, &plan, args, (&transport, &interrupt))?;
        (transport, outcome)
    } else {
        let transport = "AF_PACKET".to_owned();
        let outcome = measure(&mut client.into_socket(), &plan, args, (&transport, &interrupt))?;
        (transport, outcome)
    };
    Ok(Run {
        target,
        identity,
        plan,
        mtu_bytes,
        transport,
        outcome,
    })
}

fn show(args: &BenchArgs, run: &Run) -> anyhow::Result<()> {
    let shown = if args.json {
        output::line(report::to_json(args, run))
    } else {
        output::print(report::table(&run.plan, &run.outcome))
    };
    let outcome = &run.outcome;
    if !outcome.holds() {
        let (shelf, slot) = (run.target.shelf, run.target.slot);
        let (errors, mismatches, timeouts) = (outcome.errors, outcome.mismatches, outcome.timeouts);
        return Err(Shown(format!(
            "{shelf}.{slot} did not hold: {errors} errors, {mismatches} mismatches, {timeouts} requests unanswered"
        ))
        .into());
    }
    shown
}

/// Runs the plan and shows how far it is. Ctrl-C ends it, and leaves what was measured so far.
fn measure(
    transport: &mut impl Transport,
    plan: &LoadPlan,
    args: &BenchArgs,
    (way, interrupt): (&str, &Interrupt),
) -> anyhow::Result<LoadOutcome> {
    if !args.json {
        output::line(format_args!("{}, through {way}", report::describe(plan)))?;
    }
    let bar = progress_bar(plan);
    let outcome = load::run(transport, plan, |so_far, elapsed| {
        advance(&bar, plan, so_far, elapsed);
        if interrupt.came() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    bar.finish_and_clear();
    Ok(outcome?)
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

/// Sectors of a request.
fn sectors(args: &BenchArgs, target: &Found) -> anyhow::Result<u8> {
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
    Ok(sectors)
}

fn plan(args: &BenchArgs, route: Route, target: &Found, identity: &DiskIdentity) -> anyhow::Result<LoadPlan> {
    let read_percent = args.mix.unwrap_or(if args.write { 0 } else { 100 });
    ensure!(
        read_percent == 100 || args.destroy_data,
        "writes destroy what {}.{} holds: say --destroy-data if that is wanted",
        target.shelf,
        target.slot
    );
    let sectors = sectors(args, target)?;
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
    let plan = LoadPlan {
        route,
        read_percent,
        order: if args.sequential {
            LoadOrder::Sequential
        } else {
            LoadOrder::Random
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

/// A bar on a terminal, nothing elsewhere.
fn progress_bar(plan: &LoadPlan) -> ProgressBar {
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

fn advance(bar: &ProgressBar, plan: &LoadPlan, so_far: &LoadOutcome, elapsed: Duration) {
    bar.set_position(if plan.count.is_some() {
        so_far.requests
    } else {
        elapsed.as_millis() as u64
    });
    let rate = so_far.requests as f64 / elapsed.saturating_sub(plan.warmup).as_secs_f64().max(1e-3);
    bar.set_message(format!("{rate:.0} requests/s"));
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
    output::line(json!({
        "schema": SCHEMA,
        "sent": flooded.sent,
        "seconds": seconds,
        "rate": flooded.sent as f64 / seconds,
    }))
}
