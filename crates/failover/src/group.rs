//! One gateway's part in one group.

use crate::rivals::{Rivals, STILL_ANSWERED, Standing};
use crate::settings::{ASK_EVERY_US, GroupSettings};

/// An answer that the storage is not heard counts like so many questions without an answer: whoever gives it has waited for the storage
/// already.
const WORTH_OF_UNAVAILABLE: u32 = 4;

/// Questions in a row without an answer after which whoever answered while this gateway has the locks is silent.
const SILENT_AGAIN: u32 = 4;

/// How often a gateway that answers for the group says so unasked, in microseconds.
pub(crate) const ANNOUNCE_EVERY_US: u64 = 1_000_000;

/// Who has the locks of a group's images, as far as the storage tells.
///
/// Two gateways that start at the same moment both hear silence. Each looks who has the locks, and takes them later only from
/// whom it saw: whoever comes second finds another holder, and goes on listening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Whatever names it; the same text is the same holder.
    Known(String),
    /// Nobody.
    Nobody,
}

/// What a gateway does for the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// Says nothing, and listens for the gateway that answers.
    Standby,
    /// Takes the locks.
    Taking,
    /// Has the locks, and answers nobody yet.
    Quiet,
    /// Answers.
    Active,
    /// Answers nobody any more, and closes everything.
    Leaving,
}

/// Something to do. At most one is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupStep {
    /// Find out who has the locks; ends in [`Group::looked`].
    Look,
    /// Take the locks and open everything; `from` is who may be shut out for that, `None`: whoever it is. Ends in
    /// [`Group::taken`] or [`Group::refused`].
    Take {
        /// Whose locks may be broken.
        from: Option<Holder>,
    },
    /// Answer from now on, and say so to everybody. Its end is not waited for.
    Serve,
    /// Send something to everybody from the group's address, as an advertisement of one export does, on each interface: switches
    /// send to where they saw that address last. That is the wrong way when the first announcement was lost, or when a gateway that
    /// had the group before, and whose machine stood still, answers a last time. Its end is not waited for.
    Announce,
    /// Answer nobody from now on, drop what is under way without an answer, and give back or forget the locks. Ends in
    /// [`Group::left`].
    Leave,
}

/// See the crate.
#[derive(Clone, Debug)]
pub struct Group {
    settings: GroupSettings,
    state: GroupState,
    /// When the gateway that answers was heard last.
    heard_us: Option<u64>,
    /// Questions since then, but for those of times when the group is left to others.
    unanswered: u32,
    /// The same since it was found out who has the locks.
    since_look: u32,
    /// Until when the group is left to others.
    held_until_us: u64,
    /// Until when nothing is tried because the last time failed.
    put_off_until_us: u64,
    /// When the state was entered.
    since_us: u64,
    /// When it was said last that this gateway answers.
    announced_us: u64,
    look: Look,
    /// Tries in a row that failed.
    failures: u32,
    /// The operator wants it here.
    ordered: bool,
    /// Why it is not active, in words, where something went wrong.
    reason: Option<String>,
    /// Why it could not be taken the last time that was tried.
    refusal: Option<String>,
    /// A step was given out that has not ended.
    under_way: bool,
    /// Another gateway has answered since the locks were taken here.
    answered: bool,
    /// Questions since it has.
    unheard: u32,
    /// Questions since the state was entered.
    asked: u32,
    /// Others that have the group as well.
    rivals: Rivals,
    /// Why two gateways have the group, or had it until this one left.
    conflict: Option<String>,
    /// It is left because the operator wants it elsewhere.
    is_released: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    NotAsked,
    /// Under way.
    Asked,
    /// The gateway that answers was heard meanwhile: what comes of it is old.
    Outdated,
    Known(Holder),
}

/// How long a group that the operator gave away is left to others: where none takes it, it is served here again.
const RELEASED_US: u64 = 10_000_000;
/// The pause after a try that failed; doubled each time.
const PAUSE_US: u64 = 1_000_000;
/// Most doublings.
const DOUBLINGS: u32 = 5;

impl Group {
    /// A gateway that has just started: it listens first.
    pub fn new(settings: GroupSettings, now_us: u64) -> Group {
        Group {
            settings,
            state: GroupState::Standby,
            heard_us: None,
            unanswered: 0,
            since_look: 0,
            held_until_us: 0,
            put_off_until_us: 0,
            since_us: now_us,
            announced_us: now_us,
            look: Look::NotAsked,
            failures: 0,
            ordered: false,
            reason: None,
            refusal: None,
            under_way: false,
            answered: false,
            unheard: 0,
            asked: 0,
            rivals: Rivals::default(),
            conflict: None,
            is_released: false,
        }
    }

    /// What it does now.
    pub const fn state(&self) -> &GroupState {
        &self.state
    }

    /// Since when.
    pub const fn since_us(&self) -> u64 {
        self.since_us
    }

    /// What went wrong: why it is not active, or that another one is active, too.
    pub fn reason(&self) -> Option<&str> {
        self.conflict.as_deref().or(self.reason.as_deref())
    }

    /// Whether it is being left because the operator wants it elsewhere.
    pub const fn is_released(&self) -> bool {
        self.is_released
    }

    /// Why the group could not be taken the last time that was tried; `None`: it could.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// When the gateway that answers was heard last.
    pub const fn heard_us(&self) -> Option<u64> {
        self.heard_us
    }

    /// Until when it leaves the group to others; a time that is over: it does not.
    pub const fn held_until_us(&self) -> u64 {
        self.held_until_us
    }

    /// Whether its exports may be open: their locks are being taken, or held.
    pub const fn may_hold_locks(&self) -> bool {
        matches!(
            self.state,
            GroupState::Taking | GroupState::Quiet | GroupState::Active
        )
    }

    /// Other times; what is under way goes on. The operator has looked at the configuration: what was wrong with it may be mended.
    pub fn set_settings(&mut self, settings: GroupSettings) {
        self.settings = settings;
        self.conflict = None;
        self.forget_rivals();
    }

    /// Whether it is to ask, every [`ASK_EVERY_US`], for the gateway that answers. Once it has the locks itself there is none.
    pub const fn is_asking(&self) -> bool {
        matches!(
            self.state,
            GroupState::Standby | GroupState::Taking | GroupState::Quiet
        )
    }

    /// Whether it is to ask the other gateways, every [`crate::ASK_RIVALS_EVERY_US`], if they have the group as well.
    pub fn asks_rivals(&self) -> bool {
        self.state == GroupState::Active
    }

    /// The gateway that answers is being asked for, on at least one interface.
    pub const fn asked(&mut self, now_us: u64) {
        self.unheard = self.unheard.saturating_add(1);
        self.asked = self.asked.saturating_add(1);
        self.count_unanswered(1, now_us);
    }

    /// Another gateway says that it has the group as well; to be told once in a round of questions. Whoever has taken it later leaves; `words` says
    /// what happened, with whether this one does. True where it does.
    pub fn heard_rival(
        &mut self,
        own: Standing,
        other: Standing,
        now_us: u64,
        words: impl FnOnce(bool) -> String,
    ) -> bool {
        if self.state != GroupState::Active || !self.rivals.heard(other, self.settings.late_us, now_us) {
            return false;
        }
        let leaves = other < own;
        if leaves {
            self.fenced("another gateway has it as well".to_owned(), now_us);
        }
        // Those about another of its cards are no news.
        self.conflict.get_or_insert_with(|| words(leaves));
        leaves
    }

    /// The last question was answered by the gateway that has the group, and nobody else: its storage is not heard, and so it answers no
    /// initiator.
    pub const fn heard_unavailable(&mut self, now_us: u64) {
        self.count_unanswered(WORTH_OF_UNAVAILABLE - 1, now_us);
    }

    /// The storage is not heard here: whoever has the group as well may have taken it meanwhile, and be right.
    pub fn forget_rivals(&mut self) {
        self.rivals = Rivals::default();
    }

    /// The gateway that answers was heard.
    pub fn heard(&mut self, now_us: u64) {
        self.heard_us = Some(now_us);
        self.unanswered = 0;
        self.unheard = 0;
        self.answered |= self.state == GroupState::Quiet;
        if self.state == GroupState::Standby {
            self.failures = 0;
            self.reason = None;
            self.look = match self.look {
                Look::Asked | Look::Outdated => Look::Outdated,
                Look::NotAsked | Look::Known(_) => Look::NotAsked,
            };
        }
    }

    /// Who has the locks; `Err`: that is not known, because the storage does not answer.
    pub fn looked(&mut self, found: Result<Holder, String>, now_us: u64) {
        let look = std::mem::replace(&mut self.look, Look::NotAsked);
        if !matches!(look, Look::Asked | Look::Outdated) {
            return;
        }
        self.under_way = false;
        match found {
            Ok(holder) if look == Look::Asked => {
                self.look = Look::Known(holder);
                self.since_look = 0;
            }
            Ok(_) => {}
            Err(reason) => self.failed(reason, now_us),
        }
    }

    /// The locks are held and everything is read that was kept with the images.
    pub fn taken(&mut self, now_us: u64) {
        if self.state == GroupState::Taking {
            self.under_way = false;
            self.refusal = None;
            self.enter(GroupState::Quiet, now_us);
        }
    }

    /// The locks could not be taken; what was taken of them is to be given back.
    pub fn refused(&mut self, reason: String, now_us: u64) {
        if self.state == GroupState::Taking {
            self.under_way = false;
            self.refusal = Some(reason.clone());
            self.failed(reason, now_us);
            self.enter(GroupState::Leaving, now_us);
        }
    }

    /// A lock is lost that this gateway has not given back: another gateway has the group, or somebody broke the lock. That happens as well while
    /// the group is left, and counts until the locks are given back. What is seen of them after that must not be told here: a lock that was
    /// given back looks like one that was lost.
    pub fn fenced(&mut self, reason: String, now_us: u64) {
        if self.state == GroupState::Standby {
            return;
        }
        self.reason = Some(reason);
        self.held_until_us = now_us.saturating_add(self.settings.hold_us);
        if self.state != GroupState::Leaving {
            self.under_way = false;
            // Whoever kept the group while there were two may take part again: it served what initiators had.
            self.conflict = None;
            self.enter(GroupState::Leaving, now_us);
        }
    }

    /// Everything is closed.
    pub fn left(&mut self, now_us: u64) {
        if self.state == GroupState::Leaving {
            self.under_way = false;
            self.enter(GroupState::Standby, now_us);
            self.unanswered = 0;
            self.look = Look::NotAsked;
        }
    }

    /// The operator wants the group here, now. False where it is already.
    pub fn take(&mut self, now_us: u64) -> bool {
        if self.state != GroupState::Standby {
            return false;
        }
        self.ordered = true;
        // Of a try before this one.
        (self.refusal, self.conflict) = (None, None);
        self.held_until_us = now_us;
        true
    }

    /// The operator wants the group elsewhere. False where it is not here.
    pub fn release(&mut self, now_us: u64) -> bool {
        let was_ordered = std::mem::take(&mut self.ordered);
        if !self.may_hold_locks() {
            return was_ordered;
        }
        self.under_way = false;
        self.reason = Some("released by the operator".to_owned());
        self.held_until_us = now_us.saturating_add(RELEASED_US);
        self.conflict = None;
        self.enter(GroupState::Leaving, now_us);
        self.is_released = true;
        true
    }

    /// What to do now.
    pub fn poll(&mut self, now_us: u64) -> Option<GroupStep> {
        if self.under_way {
            return None;
        }
        let step = match self.state {
            GroupState::Standby => self.step_standby(now_us)?,
            GroupState::Active if now_us >= self.announced_us.saturating_add(ANNOUNCE_EVERY_US) => {
                self.announced_us = now_us;
                if self.rivals.is_empty(now_us) {
                    self.conflict = None;
                }
                return Some(GroupStep::Announce);
            }
            GroupState::Taking | GroupState::Active => return None,
            GroupState::Quiet => return self.step_quiet(now_us),
            GroupState::Leaving => GroupStep::Leave,
        };
        self.under_way = true;
        Some(step)
    }

    /// When [`Group::poll`] has something to do although nothing is heard.
    pub const fn next_us(&self) -> Option<u64> {
        if self.under_way {
            return None;
        }
        match self.state {
            GroupState::Standby if self.ordered => Some(self.since_us),
            GroupState::Quiet if self.answered => Some(self.patience_us()),
            GroupState::Quiet => Some(self.since_us.saturating_add(self.settings.quiet_us)),
            GroupState::Leaving => Some(self.since_us),
            GroupState::Active => Some(self.announced_us.saturating_add(ANNOUNCE_EVERY_US)),
            // They go on by an event.
            GroupState::Standby | GroupState::Taking => None,
        }
    }

    fn step_standby(&mut self, now_us: u64) -> Option<GroupStep> {
        if std::mem::take(&mut self.ordered) {
            self.enter(GroupState::Taking, now_us);
            return Some(GroupStep::Take { from: None });
        }
        if self.conflict.is_some() {
            // What would be served is not what initiators had.
            return None;
        }
        let grace = self.grace();
        match &self.look {
            // A question counts as unanswered when the next is asked.
            Look::NotAsked if self.unanswered > self.settings.questions.saturating_sub(grace).max(1) => {
                self.look = Look::Asked;
                Some(GroupStep::Look)
            }
            // Who opens an image anew gives its lock back for a moment.
            Look::Known(Holder::Nobody) if self.since_look >= 2 => self.take_over(Holder::Nobody, now_us),
            Look::Known(holder) if self.unanswered > self.settings.questions && self.since_look >= grace => {
                self.take_over(holder.clone(), now_us)
            }
            Look::NotAsked | Look::Asked | Look::Outdated | Look::Known(_) => None,
        }
    }

    /// The locks are held. Whoever had them is silent now, or in a moment; if not, then because its locks are others.
    fn step_quiet(&mut self, now_us: u64) -> Option<GroupStep> {
        if now_us < self.since_us.saturating_add(self.settings.quiet_us) {
            return None;
        }
        if !self.answered || self.unheard >= SILENT_AGAIN {
            self.enter(GroupState::Active, now_us);
            self.failures = 0;
            self.reason = None;
            self.announced_us = now_us;
            self.forget_rivals();
            return Some(GroupStep::Serve);
        }
        if now_us < self.patience_us() {
            return None;
        }
        // A process that stood still has asked nobody, and knows nothing.
        let enough = self.patience_us().saturating_sub(self.since_us) / ASK_EVERY_US / 2;
        let reason = match u64::from(self.asked) >= enough {
            true => {
                self.conflict = Some(STILL_ANSWERED.to_owned());
                STILL_ANSWERED
            }
            false => "it was not to be found out whether another gateway still answers",
        };
        self.refusal = Some(reason.to_owned());
        self.failed(reason.to_owned(), now_us);
        self.enter(GroupState::Leaving, now_us);
        self.under_way = true;
        Some(GroupStep::Leave)
    }

    /// Until when another gateway may be heard while this one has the locks.
    const fn patience_us(&self) -> u64 {
        let waits_us = self.settings.quiet_us.saturating_add(self.settings.late_us);
        self.since_us.saturating_add(waits_us)
    }

    /// Questions that whoever was found to have the locks is given: it may have taken them a moment before, and be quiet yet, or the
    /// storage that kept this gateway waiting kept it silent, too.
    fn grace(&self) -> u32 {
        let quiet = self.settings.quiet_us.div_ceil(ASK_EVERY_US);
        u32::try_from(quiet).unwrap_or(u32::MAX).saturating_add(2)
    }

    fn take_over(&mut self, from: Holder, now_us: u64) -> Option<GroupStep> {
        self.look = Look::NotAsked;
        self.enter(GroupState::Taking, now_us);
        Some(GroupStep::Take { from: Some(from) })
    }

    const fn count_unanswered(&mut self, questions: u32, now_us: u64) {
        if now_us >= self.held_until_us && now_us >= self.put_off_until_us {
            self.unanswered = self.unanswered.saturating_add(questions);
            self.since_look = self.since_look.saturating_add(questions);
        }
    }

    /// Nothing is tried for a while.
    fn failed(&mut self, reason: String, now_us: u64) {
        let pause_us = PAUSE_US << self.failures.min(DOUBLINGS);
        self.failures = self.failures.saturating_add(1);
        self.put_off_until_us = now_us.saturating_add(pause_us);
        self.unanswered = 0;
        self.reason = Some(reason);
    }

    fn enter(&mut self, state: GroupState, now_us: u64) {
        self.state = state;
        self.since_us = now_us;
        self.answered = false;
        self.unheard = 0;
        self.asked = 0;
        self.is_released = false;
    }
}
