//! What grew between two listings.

use super::summary::{Sum, Summary};
use crate::options::show::By;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What became of what is summed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Change {
    pub name: String,
    pub before: Sum,
    pub after: Sum,
}

impl Change {
    /// It has areas where it had none.
    pub fn is_new(&self) -> bool {
        self.before.areas == 0
    }

    /// It had areas, and has none.
    pub fn is_gone(&self) -> bool {
        self.after.areas == 0
    }

    /// Whether it grew, first of all by bytes.
    fn direction(&self) -> Ordering {
        let [before, after] = [self.before, self.after].map(|sum| (sum.bytes, sum.areas, sum.pages));
        after.cmp(&before)
    }
}

/// What grew and what shrank, what changed most first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Growth {
    pub grown: Vec<Change>,
    pub shrunk: Vec<Change>,
    /// How many are as they were.
    pub same: usize,
}

impl Growth {
    pub fn between(before: &Summary, after: &Summary, by: By) -> Growth {
        let mut changes: BTreeMap<String, Change> = BTreeMap::new();
        for row in before.rows(by) {
            changes.entry(row.name).or_default().before = row.sum;
        }
        for row in after.rows(by) {
            changes.entry(row.name).or_default().after = row.sum;
        }
        let mut growth = Growth::default();
        for (name, change) in changes {
            let change = Change { name, ..change };
            match change.direction() {
                Ordering::Greater => growth.grown.push(change),
                Ordering::Less => growth.shrunk.push(change),
                Ordering::Equal => growth.same += 1,
            }
        }
        // The sort is stable: what changed alike stays by name.
        let most = |change: &Change| {
            let differs = |figure: fn(&Sum) -> u64| figure(&change.after).abs_diff(figure(&change.before));
            std::cmp::Reverse((differs(|sum| sum.bytes), differs(|sum| sum.areas)))
        };
        growth.grown.sort_by_key(most);
        growth.shrunk.sort_by_key(most);
        growth
    }
}
