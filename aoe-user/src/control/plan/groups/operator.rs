//! What the operator decides about failover groups.

use std::time::Instant;

use failover::GroupState as Role;

use super::super::Plan;

impl Plan {
    /// The operator wants a group here.
    ///
    /// # Errors
    /// When that cannot be.
    pub(crate) fn take_group(&mut self, name: &str, now: Instant) -> Result<(), String> {
        let us = self.us(now);
        let group = self.groups.get_mut(name).ok_or_else(|| no_group(name))?;
        match group.machine.take(us) {
            true => Ok(()),
            false => Err(format!(
                "failover group {name} is {} here",
                role_name(group.machine.state())
            )),
        }
    }

    /// The operator wants a group elsewhere.
    ///
    /// # Errors
    /// When that cannot be.
    pub(crate) fn release_group(&mut self, name: &str, now: Instant) -> Result<(), String> {
        let us = self.us(now);
        let group = self.groups.get_mut(name).ok_or_else(|| no_group(name))?;
        match group.machine.release(us) {
            true => Ok(()),
            false => Err(format!(
                "failover group {name} is {} here",
                role_name(group.machine.state())
            )),
        }
    }
}

/// As commands and messages call it.
const fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Standby => "standby",
        Role::Taking => "taking",
        Role::Quiet => "quiet",
        Role::Active => "active",
        Role::Leaving => "leaving",
    }
}

fn no_group(name: &str) -> String {
    format!("there is no failover group {name}; `xblade failover status` lists them")
}
