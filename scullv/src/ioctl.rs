//! The commands of `ioctl`, and the settings that they change.
//!
//! | | order | qset | |
//! |---|---|---|---|
//! | Set | `_IOW('K', 1, int)` | `_IOW('K', 7, int)` | through a pointer |
//! | Tell | `_IO('K', 2)` | `_IO('K', 8)` | by value |
//! | Get | `_IOR('K', 3, int)` | `_IOR('K', 9, int)` | through a pointer |
//! | Query | `_IO('K', 4)` | `_IO('K', 10)` | as the result |
//! | eXchange | `_IOWR('K', 5, int)` | `_IOWR('K', 11, int)` | through a pointer |
//! | sHift | `_IO('K', 6)` | `_IO('K', 12)` | new by value, old as the result |
//!
//! and `_IO('K', 0)`, reset. They change the [`Settings`] that all devices
//! share; a device takes them over at its next trim. A command is the whole
//! number: with another size or direction it is none (ENOTTY).
//!
//! # Rules
//! - I1. The settings are a geometry at every moment: what is out of range is
//!   refused (EINVAL).
//! - I2. What can fail comes before the change: an exchange hands the old value
//!   out, and only then sets the new one, if nobody changed it meanwhile.

use crate::error::Error;
use crate::geometry::{Geometry, MAX_ORDER, MAX_QSET};
use crate::user::User;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

const MAGIC: u32 = b'K' as u32;
const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;
const INT: u32 = size_of::<i32>() as u32;

/// Which of the settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The order of new quanta.
    Order,
    /// The quanta of new items.
    Qset,
}

/// What is done with it, and how the value travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Set, through a pointer.
    Set,
    /// Set, by value.
    Tell,
    /// Got, through a pointer.
    Get,
    /// Got, as the result.
    Query,
    /// Set and got, through a pointer.
    Exchange,
    /// Set by value, got as the result.
    Shift,
}

const HOW: [(How, u32); 6] = [
    (How::Set, WRITE),
    (How::Tell, NONE),
    (How::Get, READ),
    (How::Query, NONE),
    (How::Exchange, READ | WRITE),
    (How::Shift, NONE),
];

/// A command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Back to [`Geometry::DEFAULT`].
    Reset,
    /// One of the settings, in one of the ways.
    Of(What, How),
}

impl Command {
    /// All commands, by number.
    pub fn all() -> impl Iterator<Item = Command> {
        let of = |what| HOW.map(|(how, _)| Command::Of(what, how));
        [Command::Reset].into_iter().chain(of(What::Order)).chain(of(What::Qset))
    }

    /// The number that C programs use.
    pub fn number(self) -> u32 {
        match self {
            Command::Reset => encode(NONE, 0),
            Command::Of(what, how) => {
                let at = how as usize;
                encode(HOW[at].1, at as u32 + if what == What::Order { 1 } else { 7 })
            }
        }
    }

    /// The command that has this number.
    pub fn decode(number: u32) -> Option<Command> {
        Command::all().find(|command| command.number() == number)
    }
}

/// Source: `_IOC` of the generic ABI: 2 bits of direction, 14 of size, 8 of
/// magic, 8 of number.
fn encode(direction: u32, number: u32) -> u32 {
    let size = if direction == NONE { 0 } else { INT };
    direction << 30 | size << 16 | MAGIC << 8 | number
}

/// Order and qset for devices that are trimmed next.
#[derive(Debug)]
pub struct Settings(AtomicU32);

impl Settings {
    /// These.
    pub const fn new(geometry: Geometry) -> Settings {
        Settings(AtomicU32::new(pack(geometry)))
    }

    /// What they are.
    pub fn get(&self) -> Geometry {
        unpack(self.0.load(Relaxed))
    }

    /// Does what `number` says with `argument`: a value, or an address in
    /// `user`.
    ///
    /// # Errors
    /// [`Error::NoCommand`], [`Error::Fault`], [`Error::BadValue`]. Nothing has
    /// changed then.
    pub fn ioctl(&self, number: u32, argument: usize, user: &mut impl User) -> Result<i32, Error> {
        let Some(Command::Of(what, how)) = Command::decode(number) else {
            return self.reset(number);
        };
        match how {
            How::Set => self.exchange(what, fetch(user, argument)?.into(), |_| Ok(0)),
            How::Tell => self.exchange(what, by_value(argument), |_| Ok(0)),
            How::Get => Ok(user.copy_out(argument, &value(self.get(), what).to_ne_bytes()).map(|()| 0)?),
            How::Query => Ok(value(self.get(), what)),
            How::Exchange => {
                let new = fetch(user, argument)?;
                self.exchange(what, new.into(), |old| Ok(user.copy_out(argument, &old.to_ne_bytes()).map(|()| 0)?))
            }
            How::Shift => self.exchange(what, by_value(argument), Ok),
        }
    }

    fn reset(&self, number: u32) -> Result<i32, Error> {
        if number != Command::Reset.number() {
            return Err(Error::NoCommand(number));
        }
        self.0.store(pack(Geometry::DEFAULT), Relaxed);
        Ok(0)
    }

    /// Sets one of them; `tell` learns of the old value before (I2).
    fn exchange(&self, what: What, new: i64, mut tell: impl FnMut(i32) -> Result<i32, Error>) -> Result<i32, Error> {
        loop {
            let old = self.get();
            let changed = with(old, what, new)?;
            let result = tell(value(old, what))?;
            if self.0.compare_exchange(pack(old), pack(changed), Relaxed, Relaxed).is_ok() {
                return Ok(result);
            }
        }
    }
}

/// qset is below 2²¹ and order below 2⁵.
const fn pack(geometry: Geometry) -> u32 {
    geometry.qset() << 8 | geometry.order()
}

fn unpack(word: u32) -> Geometry {
    Geometry::new(word & 0xff, word >> 8).expect("I1: only geometries are packed")
}

fn value(of: Geometry, what: What) -> i32 {
    match what {
        What::Order => of.order() as i32,
        What::Qset => of.qset() as i32,
    }
}

fn with(old: Geometry, what: What, value: i64) -> Result<Geometry, Error> {
    let small = u32::try_from(value).unwrap_or(u32::MAX);
    let (changed, what, least, most) = match what {
        What::Order => (Geometry::new(small, old.qset()), "order", 0, MAX_ORDER),
        What::Qset => (Geometry::new(old.order(), small), "qset", 1, MAX_QSET),
    };
    changed.ok_or(Error::BadValue { what, value, least, most })
}

fn fetch(user: &mut impl User, at: usize) -> Result<i32, Error> {
    let mut bytes = [0; INT as usize];
    user.copy_in(at, &mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// All of the argument counts: a huge one is not cut down to a small `int`.
fn by_value(argument: usize) -> i64 {
    argument as isize as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::{Input, Output};
    extern crate std;
    use std::vec::Vec;

    fn settings() -> Settings {
        Settings::new(Geometry::new(2, 10).unwrap())
    }

    fn number(what: What, how: How) -> u32 {
        Command::Of(what, how).number()
    }

    /// A command with an int in memory: the result, and the int afterwards.
    fn through(settings: &Settings, number: u32, int: i32) -> (Result<i32, Error>, i32) {
        let mut memory = int.to_ne_bytes();
        let result = settings.ioctl(number, 0, &mut Output(&mut memory));
        (result, i32::from_ne_bytes(memory))
    }

    fn by_value(settings: &Settings, number: u32, value: usize) -> Result<i32, Error> {
        settings.ioctl(number, value, &mut Input(&[]))
    }

    #[test]
    fn the_numbers_are_those_of_the_original_header() {
        let numbers: Vec<u32> = Command::all().map(Command::number).collect();
        let original = [
            0x4b00,
            0x4004_4b01,
            0x4b02,
            0x8004_4b03,
            0x4b04,
            0xc004_4b05,
            0x4b06,
            0x4004_4b07,
            0x4b08,
            0x8004_4b09,
            0x4b0a,
            0xc004_4b0b,
            0x4b0c,
        ];
        assert_eq!(numbers, original);
        assert!(Command::all().all(|command| Command::decode(command.number()) == Some(command)));
    }

    #[test]
    fn each_way_of_setting_sets_and_each_way_of_getting_gets() {
        for (what, others) in [(What::Order, What::Qset), (What::Qset, What::Order)] {
            let settings = settings();
            let other = value(settings.get(), others);
            let is = |expected: i32| {
                assert_eq!((value(settings.get(), what), value(settings.get(), others)), (expected, other))
            };
            assert_eq!(through(&settings, number(what, How::Set), 5), (Ok(0), 5));
            is(5);
            assert_eq!(by_value(&settings, number(what, How::Tell), 6), Ok(0));
            is(6);
            assert_eq!(through(&settings, number(what, How::Get), -1), (Ok(0), 6));
            assert_eq!(by_value(&settings, number(what, How::Query), 0), Ok(6));
            assert_eq!(through(&settings, number(what, How::Exchange), 7), (Ok(0), 6));
            is(7);
            assert_eq!(by_value(&settings, number(what, How::Shift), 8), Ok(7));
            is(8);
        }
    }

    #[test]
    fn reset_goes_back_to_the_defaults_and_not_to_what_was_configured() {
        let settings = settings();
        assert_eq!(by_value(&settings, Command::Reset.number(), 0), Ok(0));
        assert_eq!(settings.get(), Geometry::DEFAULT);
    }

    /// The original took negative and huge values.
    #[test]
    fn values_out_of_range_are_refused_and_change_nothing() {
        let settings = settings();
        let before = settings.get();
        let cases = [(What::Order, [-1, 19, i32::MIN, i32::MAX]), (What::Qset, [-1, 0, (1 << 20) + 1, i32::MAX])];
        for (what, values) in cases {
            for value in values {
                for how in [How::Set, How::Exchange] {
                    let (result, int) = through(&settings, number(what, how), value);
                    assert_eq!((result.map_err(|e| e.errno()), int), (Err(22), value), "{what:?} {how:?}");
                }
                for how in [How::Tell, How::Shift] {
                    let result = by_value(&settings, number(what, how), value as usize);
                    assert_eq!(result.map_err(|e| e.errno()), Err(22), "{what:?} {how:?} {value}");
                }
            }
            let huge = by_value(&settings, number(what, How::Tell), 1 << (usize::BITS - 1) | 4);
            assert_eq!(huge.map_err(|e| e.errno()), Err(22), "a value is not cut to an int");
        }
        assert_eq!(settings.get(), before);
    }

    #[test]
    fn what_is_no_command_is_refused_and_changes_nothing() {
        let settings = settings();
        let before = settings.get();
        let strangers = Command::all().flat_map(|command| {
            let number = command.number();
            // Another magic, a number past the last, another size, another direction.
            [number ^ 1 << 8, number + 13, number ^ 1 << 16, number ^ 8 << 16, number ^ 1 << 30, number ^ 1 << 31]
        });
        for stranger in strangers.chain([0, u32::MAX]).filter(|&number| Command::decode(number).is_none()) {
            assert_eq!(through(&settings, stranger, 3), (Err(Error::NoCommand(stranger)), 3), "{stranger:#x}");
        }
        assert_eq!(settings.get(), before);
    }

    #[test]
    fn bad_pointers_are_refused_and_change_nothing() {
        let settings = settings();
        let before = settings.get();
        for what in [What::Order, What::Qset] {
            for (how, _) in HOW.iter().filter(|(_, direction)| *direction != NONE) {
                for at in [1, 4, usize::MAX] {
                    let mut memory = [0; 4];
                    let result = settings.ioctl(number(what, *how), at, &mut Output(&mut memory));
                    assert_eq!(result, Err(Error::Fault), "{what:?} {how:?} {at}");
                }
            }
            // What can be read but not written: an exchange must not have happened.
            let read_only = settings.ioctl(number(what, How::Exchange), 0, &mut Input(&3i32.to_ne_bytes()));
            assert_eq!(read_only, Err(Error::Fault));
        }
        assert_eq!(settings.get(), before);
    }

    #[test]
    fn exchanges_from_many_threads_hand_every_value_to_one_of_them() {
        let settings = settings();
        let threads = 4usize;
        let mut seen: Vec<i32> = std::thread::scope(|scope| {
            let shift = |of: usize| {
                let values = (0..1000).map(move |n| 100 + of * 1000 + n);
                let settings = &settings;
                scope.spawn(move || {
                    values.map(|v| by_value(settings, number(What::Qset, How::Shift), v).unwrap()).collect::<Vec<_>>()
                })
            };
            let all: Vec<_> = (0..threads).map(shift).collect();
            all.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        seen.push(value(settings.get(), What::Qset));
        seen.sort_unstable();
        let expected: Vec<i32> = [10].into_iter().chain(100..100 + threads as i32 * 1000).collect();
        assert_eq!(seen, expected);
    }
}
