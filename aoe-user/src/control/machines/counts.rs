//! What machines have read and written, for metrics: a bounded number of rows.

use crate::store::{OverlayTotals, SECTOR_BYTES};

/// Machines with a row of their own, the first by name. As of initiators.
const ROWS: usize = 64;

/// What one machine did since it booted, or since its copy was opened; in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::control) struct MachineCounts {
    /// Its name, or its address; "other" for those beyond the bound, taken together.
    pub(crate) machine: String,
    /// Read from the golden image.
    pub(crate) image_read: u64,
    /// Read from its copy.
    pub(crate) copy_read: u64,
    /// Written.
    pub(crate) written: u64,
}

/// The rows of machines in the order of their names.
pub(super) fn rows(machines: impl Iterator<Item = (String, OverlayTotals)>) -> Vec<MachineCounts> {
    let mut rows: Vec<MachineCounts> = Vec::new();
    for (machine, totals) in machines {
        match rows.get_mut(ROWS) {
            Some(other) => add(other, &totals),
            None => {
                let machine = if rows.len() < ROWS {
                    machine
                } else {
                    "other".to_owned()
                };
                let mut row = MachineCounts {
                    machine,
                    ..MachineCounts::default()
                };
                add(&mut row, &totals);
                rows.push(row);
            }
        }
    }
    rows
}

fn add(row: &mut MachineCounts, totals: &OverlayTotals) {
    row.image_read += totals.golden_sectors * SECTOR_BYTES;
    row.copy_read += totals.delta_sectors * SECTOR_BYTES;
    row.written += totals.written_sectors * SECTOR_BYTES;
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn machines_beyond_the_bound_are_counted_together() {
        let totals = OverlayTotals {
            golden_sectors: 4,
            delta_sectors: 2,
            written_sectors: 1,
            since: SystemTime::UNIX_EPOCH,
        };
        let rows = rows((0..70).map(|n| (format!("pc{n:02}"), totals)));
        assert_eq!(rows.len(), 65);
        assert_eq!((rows[63].machine.as_str(), rows[63].image_read), ("pc63", 2048));
        let other = MachineCounts {
            machine: "other".into(),
            image_read: 6 * 2048,
            copy_read: 6 * 1024,
            written: 6 * 512,
        };
        assert_eq!(rows[64], other);
    }
}
