//! When a device was read, written, and changed in any way.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// A moment, which may be before 1970.
struct Moment(AtomicI64);

impl Moment {
    fn set(&self, time: SystemTime) {
        let nanos = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        let since = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => nanos(after),
            Err(before) => -nanos(before.duration()),
        };
        self.0.store(since, Relaxed);
    }

    fn get(&self) -> SystemTime {
        let nanos = self.0.load(Relaxed);
        let span = Duration::from_nanos(nanos.unsigned_abs());
        if nanos < 0 { SystemTime::UNIX_EPOCH - span } else { SystemTime::UNIX_EPOCH + span }
    }
}

/// The times of a file, as stat(2) names them.
pub struct Times {
    accessed: Moment,
    modified: Moment,
    changed: Moment,
}

/// The same, read together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub accessed: SystemTime,
    pub modified: SystemTime,
    pub changed: SystemTime,
}

impl Stamp {
    /// All of them the same.
    pub fn all(time: SystemTime) -> Stamp {
        Stamp { accessed: time, modified: time, changed: time }
    }
}

impl Times {
    /// All of them now.
    pub fn now() -> Times {
        let moment = || Moment(AtomicI64::new(0));
        let times = Times { accessed: moment(), modified: moment(), changed: moment() };
        times.accessed.set(SystemTime::now());
        times.write();
        times
    }

    /// Its bytes were read.
    pub fn read(&self) {
        self.accessed.set(SystemTime::now());
    }

    /// Its bytes were changed.
    pub fn write(&self) {
        let now = SystemTime::now();
        self.modified.set(now);
        self.changed.set(now);
    }

    /// What stat(2) tells of it was changed: its mode, or these times.
    pub fn set(&self, accessed: Option<SystemTime>, modified: Option<SystemTime>) {
        accessed.into_iter().for_each(|time| self.accessed.set(time));
        modified.into_iter().for_each(|time| self.modified.set(time));
        self.changed.set(SystemTime::now());
    }

    /// What they are.
    pub fn stamp(&self) -> Stamp {
        Stamp { accessed: self.accessed.get(), modified: self.modified.get(), changed: self.changed.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_moves_with_what_it_is_of() {
        let (times, long_ago) = (Times::now(), SystemTime::UNIX_EPOCH - Duration::from_secs(1000));
        let begun = times.stamp();
        times.set(Some(long_ago), None);
        assert_eq!((times.stamp().accessed, times.stamp().modified), (long_ago, begun.modified));
        let set = times.stamp();
        times.read();
        let read = times.stamp();
        assert!(read.accessed >= begun.accessed && (read.modified, read.changed) == (set.modified, set.changed));
        times.write();
        let written = times.stamp();
        assert_eq!(written.accessed, read.accessed);
        assert!(written.modified >= begun.modified && written.changed == written.modified);
    }
}
