//! Begins to show frames to somebody who asked for them.

use super::dumps::{Dumping, WantedFrames, whole_frames};
use super::socket::ControlAnswer;
use super::view::Selection;
use crate::control::supervisor::Supervisor;
use crate::dump::DumpWanted;
use crate::host;
use crate::target::Address;

impl Supervisor {
    /// Replies with what is shown, and hands the connection over to who writes it.
    pub(in crate::control) fn dump(&self, asked: &WantedFrames, selection: Selection, answer: ControlAnswer) {
        let mut served: Vec<String> = self.ports.values().map(|port| port.name.clone()).collect();
        served.sort_unstable();
        let names: Vec<String> = asked
            .interfaces
            .iter()
            .map(|name| host::named(&self.links, name).map_or_else(|| name.clone(), |link| link.name.clone()))
            .collect();
        if let Some(other) = names.iter().find(|name| !served.contains(name)) {
            return answer.error(format!(
                "nothing is served on {other}; there are: {}",
                served.join(", ")
            ));
        }
        let is_shown = |name: &String| names.is_empty() || names.contains(name);
        let dumping = Dumping {
            interfaces: served.into_iter().filter(is_shown).collect(),
        };
        let has_choice = !asked.exports.is_empty();
        let wanted = DumpWanted {
            interfaces: names,
            exports: has_choice
                .then(|| Box::new(move |shelf, slot| selection.has_address(Address { shelf, slot })) as _),
            frame_bytes: asked.frame_bytes.min(whole_frames()),
        };
        match self.dumps.start(wanted) {
            Ok(session) => answer.and_dump(dumping, session),
            Err(reason) => answer.error(reason),
        }
    }
}
