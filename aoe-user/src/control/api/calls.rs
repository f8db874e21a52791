//! Carries out what comes over the control socket. Nothing here waits: what takes time is a job, or is answered when it is over.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tracing::info;

use super::reloads::{Reading, Settling};
use super::socket::{ControlAnswer, ControlCall};
use super::types::{ControlRequest, LastReload};
use super::view::Selection;
use super::{openmetrics, view};
use crate::config::Config;
use crate::config::file;
use crate::config::validate::{SettingNames, contradictions};
use crate::control::Control;
use crate::control::state::operator::{OperatorAction, Parts};
use crate::target::Address;

/// Whoever asked for a reload is told what has happened after this time, though not all of it may have.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

impl Control {
    /// Answers a request, now or when it is done.
    pub(in crate::control) fn call(&mut self, call: ControlCall, now: Instant) {
        let selection = self.selection(&call);
        let ControlCall { request, answer, .. } = call;
        let selection = match selection {
            Ok(selection) => selection,
            Err(reason) => return answer.error(reason),
        };
        match request {
            ControlRequest::State { .. } => answer.result(view::state(&self.supervisor, &selection, now)),
            ControlRequest::Metrics { format } => {
                let state = view::state(&self.supervisor, &selection, now);
                answer.result(openmetrics::text(&state, format));
            }
            ControlRequest::Reload { .. } if !self.service.reloads => {
                answer.error("there is no config file: this is `xblade serve`");
            }
            ControlRequest::Reload { dry_run } => self.load(Reading::of(answer, dry_run)),
            ControlRequest::Pause { exports, .. } if exports.is_empty() => {
                answer.error("name the exports to pause");
            }
            ControlRequest::Pause { for_ms, .. } => self.supervisor.pause(&selection, for_ms, answer),
            ControlRequest::Resume { exports } if exports.is_empty() => {
                answer.error("name the exports to resume");
            }
            ControlRequest::Resume { .. } => self.supervisor.resume(&selection, answer),
            ControlRequest::Add { toml, served } => self.add(toml, served, answer, now),
            ControlRequest::Remove { exports, .. } if exports.is_empty() => {
                answer.error("name the exports to remove");
            }
            ControlRequest::Remove { gone, .. } => self.remove(&selection, gone, answer, now),
            ControlRequest::KeptStates {} => self.tell_kept(answer),
            ControlRequest::ClearState {
                string: false,
                mask: false,
                reserve: false,
                ..
            } => answer.error("name what to clear: string, mask or reserve"),
            ControlRequest::ClearState {
                state,
                string,
                mask,
                reserve,
            } => {
                let parts = Parts {
                    mask,
                    reserve,
                    string,
                };
                self.decide_kept(&state, OperatorAction::Clear(parts), answer);
            }
            ControlRequest::AdoptState { state, from } => {
                self.decide_kept(&state, OperatorAction::Adopt(from), answer);
            }
            ControlRequest::AcceptLostWrites { state } => {
                self.decide_kept(&state, OperatorAction::AcceptLostWrites, answer);
            }
            ControlRequest::Overlays { .. } => self.supervisor.tell_overlays(&selection, answer),
            ControlRequest::ResetOverlays(asked) => self.supervisor.reset_overlays(asked, answer),
            ControlRequest::PinOverlays(asked) => self.supervisor.pin_overlays(asked, answer),
            ControlRequest::FailoverGroups {} => self.supervisor.tell_groups(answer, now),
            ControlRequest::TakeGroup { group } => self.supervisor.take_group(&group, answer, now),
            ControlRequest::ReleaseGroup { group } => self.supervisor.release_group(&group, answer, now),
            ControlRequest::CommitOverlay(asked) => self.supervisor.commit_overlay(asked, answer),
            ControlRequest::Dump(wanted) => self.supervisor.dump(&wanted, selection, answer),
            ControlRequest::LogLines { after } => answer.result((self.service.read_log)(after)),
            ControlRequest::Log { filter } => self.set_log(&filter, answer),
        }
    }

    /// The exports that a request is about, all of which there must be. Whoever watches one goes on when a reload takes it out.
    fn selection(&self, call: &ControlCall) -> Result<Selection, String> {
        let selection = Selection::new(globs(&call.request))?;
        match self.unknown(&call.request, &selection).filter(|_| !call.again) {
            Some(reason) => Err(reason),
            None => Ok(selection),
        }
    }

    /// Says which name or pattern of a request is no export's. Nothing is done then: who mistypes one of two names of exports to pause
    /// must not believe that both are.
    fn unknown(&self, request: &ControlRequest, selection: &Selection) -> Option<String> {
        // What is paused or was added need not be in the plan yet, or any more: those two look for themselves.
        let is_for_others = matches!(
            request,
            ControlRequest::Resume { .. } | ControlRequest::Remove { .. }
        );
        if is_for_others || globs(request).is_empty() {
            return None;
        }
        let status = self.supervisor.plan.status();
        let known = status.exports.iter().map(|export| export.address);
        let unmatched = selection.unmatched(known)?;
        Some(match self.has_config {
            true => no_such_export(unmatched),
            false => format!("{unmatched} is not known yet: xblade is still starting; try again in a moment"),
        })
    }

    fn set_log(&self, filter: &str, answer: ControlAnswer) {
        match (self.service.set_log)(filter) {
            Ok(()) => {
                info!("the log shows {filter} from here on");
                answer.result(json!({ "log": filter }));
            }
            Err(reason) => answer.error(reason),
        }
    }

    fn add(&mut self, toml: String, served: bool, answer: ControlAnswer, now: Instant) {
        let Some(mut config) = self.current.clone() else {
            return answer.error("the configuration has not been read yet; try again");
        };
        match file::parse_further(&config.sources, Path::new("request"), toml) {
            Ok(further) if further.is_empty() => return answer.error("it names no [[export]]"),
            Ok(further) if served && further.iter().all(|export| config.exports.contains(export)) => {
                return answer.result(self.supervisor.plan.difference(&config));
            }
            Ok(further) => config.exports.extend(further),
            Err(problems) => return answer.error(problems.to_string()),
        }
        let problems = contradictions(&config, SettingNames::File).problems(None);
        if !problems.0.is_empty() {
            return answer.error(problems.to_string());
        }
        self.put_in_force(config, vec![answer], now);
    }

    fn remove(&mut self, selection: &Selection, gone: bool, answer: ControlAnswer, now: Instant) {
        let Some(mut config) = self.current.clone() else {
            return answer.error("the configuration has not been read yet; try again");
        };
        let configured = config.exports.iter().map(|export| Address {
            shelf: export.shelf,
            slot: export.slot,
        });
        if let Some(glob) = selection.unmatched(configured).filter(|_| !gone) {
            return answer.error(no_such_export(glob));
        }
        config.exports.retain(|export| !selection.has(export));
        self.put_in_force(config, vec![answer], now);
    }

    /// Takes over what was read, for whoever asked for it.
    pub(in crate::control) fn read(&mut self, reading: Reading, config: Config, now: Instant) {
        for answer in reading.dry_runs {
            let mut reloaded = self.supervisor.plan.difference(&config);
            reloaded.dry_run = true;
            answer.result(reloaded);
        }
        if reading.apply {
            self.supervisor.last_reload = Some(last_reload(true));
            self.put_in_force(config, reading.reloads, now);
        }
    }

    /// The file cannot be taken over.
    pub(in crate::control) fn not_read(&mut self, reading: Reading, reason: &str) {
        if reading.apply {
            self.supervisor.last_reload = Some(last_reload(false));
        }
        reading.refuse(reason);
    }

    fn put_in_force(&mut self, config: Config, answers: Vec<ControlAnswer>, now: Instant) {
        // Who waits for an earlier reload is told what came of that one, too.
        if self.settling.is_empty() {
            self.supervisor.plan.renewed.clear();
        }
        if !answers.is_empty() {
            self.settling.push(Settling {
                until: now + SETTLE_LIMIT,
                reloaded: self.supervisor.plan.difference(&config),
                answers,
            });
        }
        self.first = Some(config);
        self.take_over_first(now);
    }

    /// Answers those whose configuration has had its consequences.
    pub(in crate::control) fn answer_settled(&mut self, now: Instant) {
        let plan = &self.supervisor.plan;
        let is_over = self.first.is_none() && !plan.is_reloading() && plan.is_settled();
        let is_due = self
            .settling
            .first()
            .is_some_and(|first| is_over || now >= first.until);
        if !is_due {
            return;
        }
        let all = view::state(&self.supervisor, &Selection::all(), now);
        for mut settling in std::mem::take(&mut self.settling) {
            settling
                .reloaded
                .settle(&self.supervisor.plan.renewed, &all.exports);
            let reloaded = &settling.reloaded;
            settling
                .answers
                .into_iter()
                .for_each(|answer| answer.result(reloaded));
        }
    }
}

/// The answer where a name or pattern is no export's.
pub(super) fn no_such_export(glob: &str) -> String {
    format!("{glob} matches no export; `xblade ls` lists them")
}

fn last_reload(ok: bool) -> LastReload {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    LastReload {
        ok,
        time: time.unwrap_or_default().as_secs_f64(),
    }
}

/// The exports that a request is about.
fn globs(request: &ControlRequest) -> &[String] {
    match request {
        ControlRequest::State { exports, .. }
        | ControlRequest::Pause { exports, .. }
        | ControlRequest::Resume { exports }
        | ControlRequest::Remove { exports, .. }
        | ControlRequest::Overlays { exports } => &exports[..],
        ControlRequest::Dump(wanted) => &wanted.exports,
        _ => &[],
    }
}
