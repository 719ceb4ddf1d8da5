//! What happened, counted.

use super::worker::Failure;
use std::collections::BTreeMap;

/// Errors that are kept word for word.
const KEPT: usize = 10;

/// One worker's counts.
#[derive(Default, Debug)]
pub struct Tally {
    /// Events that went well, by the trace's word.
    pub events: BTreeMap<&'static str, u64>,
    /// Events that did not.
    pub failed: u64,
    /// Bytes of patterns written.
    pub bytes_written: u64,
    /// Bytes compared.
    pub bytes_verified: u64,
    /// Of these, bytes that differed.
    pub bytes_wrong: u64,
    /// What the first failures said.
    pub errors: Vec<String>,
}

impl Tally {
    /// An event went well.
    pub fn done(&mut self, word: &'static str) {
        *self.events.entry(word).or_default() += 1;
    }

    /// An event did not.
    pub fn failed(&mut self, why: &Failure) {
        self.failed += 1;
        if self.errors.len() < KEPT {
            self.errors.push(why.to_string());
        }
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: Tally) {
        for (word, n) in other.events {
            *self.events.entry(word).or_default() += n;
        }
        self.failed += other.failed;
        self.bytes_written += other.bytes_written;
        self.bytes_verified += other.bytes_verified;
        self.bytes_wrong += other.bytes_wrong;
        self.errors.extend(other.errors);
        self.errors.truncate(KEPT);
    }
}
