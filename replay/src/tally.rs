//! What happened, counted.

use crate::script::{Act, Make, Script};
use crate::worker::Failure;
use arrayvec::ArrayVec;

/// Errors that are kept.
pub const KEPT: usize = 10;
/// What events are called, by their trace.
pub const WORDS: [&str; 10] =
    ["alloc", "map_ram", "pcpu_alloc", "free", "unmap_ram", "pcpu_free", "defer", "purge", "mark", "fail"];

/// One worker's counts.
#[derive(Debug)]
pub struct Tally<F> {
    /// Events that went well, by [`WORDS`].
    pub events: [u64; WORDS.len()],
    /// Events that did not.
    pub failed: u64,
    /// Bytes of patterns written.
    pub bytes_written: u64,
    /// Bytes compared.
    pub bytes_verified: u64,
    /// Of these, bytes that differed.
    pub bytes_wrong: u64,
    /// The first failures.
    pub errors: ArrayVec<Failure<F>, KEPT>,
}

impl<F> Default for Tally<F> {
    fn default() -> Tally<F> {
        Tally {
            events: [0; WORDS.len()],
            failed: 0,
            bytes_written: 0,
            bytes_verified: 0,
            bytes_wrong: 0,
            errors: ArrayVec::new(),
        }
    }
}

impl<F> Tally<F> {
    /// An event of `script` went well.
    pub fn done(&mut self, script: Script<'_>, act: Act) {
        self.events[word(script, act)] += 1;
    }

    /// An event did not.
    pub fn failed(&mut self, why: Failure<F>) {
        self.failed += 1;
        // Those that find no room are counted.
        let _ = self.errors.try_push(why);
    }

    /// Adds what another worker counted.
    pub fn merge(&mut self, other: Tally<F>) {
        self.events.iter_mut().zip(other.events).for_each(|(ours, theirs)| *ours += theirs);
        self.failed += other.failed;
        self.bytes_written += other.bytes_written;
        self.bytes_verified += other.bytes_verified;
        self.bytes_wrong += other.bytes_wrong;
        let room = self.errors.remaining_capacity();
        self.errors.extend(other.errors.into_iter().take(room));
    }
}

/// Which of [`WORDS`] `act` is.
fn word(script: Script<'_>, act: Act) -> usize {
    const FREE: usize = 3;
    let family = |id| match script.area(id).make {
        Make::MapRam => 1,
        Make::Pcpu(_) => 2,
        _ => 0,
    };
    match act {
        Act::Make(id) => family(id),
        Act::Free(id) => FREE + family(id),
        Act::Settled(_) => FREE,
        Act::Defer(_) => 6,
        Act::Purge => 7,
        Act::Mark(_) => 8,
        Act::Fail => 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{Area, AreaId, Place};
    use std::vec::Vec;

    #[test]
    fn events_are_counted_by_the_traces_words() {
        let area =
            |make| Area { make, bytes: 1, guard: false, align: 1, zeroed: false, place: Place::ANYWHERE, caller: 0 };
        let areas = [area(Make::Ioremap), area(Make::MapRam), area(Make::Pcpu(2))];
        let script = Script { areas: &areas, steps: &[] };
        let ids = [AreaId(0), AreaId(1), AreaId(2)];
        let all = ids.map(Act::Make).into_iter().chain(ids.map(Act::Free)).chain([
            Act::Defer(ids[0]),
            Act::Purge,
            Act::Mark(0),
            Act::Fail,
        ]);
        assert_eq!(all.map(|act| word(script, act)).collect::<Vec<_>>(), (0..WORDS.len()).collect::<Vec<_>>());
        assert_eq!(WORDS[word(script, Act::Settled(ids[0]))], "free");
    }

    #[test]
    fn sums_are_of_all_workers_and_the_first_errors_stay() {
        let (mut all, mut other) = (Tally::<u8>::default(), Tally::default());
        (0..KEPT + 5).for_each(|n| other.failed(Failure::Fault(n as u8)));
        all.failed(Failure::Fault(99));
        all.merge(other);
        assert_eq!((all.failed, all.errors.len()), (KEPT as u64 + 6, KEPT));
        assert!(matches!(all.errors[..2], [Failure::Fault(99), Failure::Fault(0)]));
    }
}
