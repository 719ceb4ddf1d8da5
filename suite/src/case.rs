//! Cases, and their names.

use core::fmt;
use core::str::FromStr;

/// What is measured. The [crate] says what each does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Case {
    /// Areas of so many pages.
    FixSize(usize),
    /// One page, in the holes between others.
    FullFit,
    /// 100 pages and 1 page, beside 15,000 others.
    LongBusyList,
    /// 1..100 pages.
    RandomSize,
    /// 5 cleared pages, aligned to 32 KiB.
    FixAlign,
    /// 1..10 cleared pages, aligned up to 4 MiB.
    RandomSizeAlign,
    /// Each alignment that there is.
    AlignShift,
    /// Objects by CPU of random sizes and alignments.
    Pcpu,
    /// A mapping of so many frames.
    MapRam(usize),
    /// A page, freed after a grace period: `kvfree_rcu` of one argument.
    KvfreeRcu1,
    /// The same, of two arguments.
    KvfreeRcu2,
    /// A page for who must not wait.
    NoBlock,
    /// An area that grows and shrinks.
    Vrealloc,
}

impl Case {
    /// All of them, in the order in which they are told.
    pub const ALL: [Case; 23] = [
        Case::FixSize(1),
        Case::FixSize(4),
        Case::FixSize(16),
        Case::FixSize(64),
        Case::FixSize(256),
        Case::FixSize(512),
        Case::FixSize(1024),
        Case::FullFit,
        Case::LongBusyList,
        Case::RandomSize,
        Case::FixAlign,
        Case::RandomSizeAlign,
        Case::AlignShift,
        Case::Pcpu,
        Case::MapRam(1),
        Case::MapRam(4),
        Case::MapRam(16),
        Case::MapRam(64),
        Case::MapRam(256),
        Case::KvfreeRcu1,
        Case::KvfreeRcu2,
        Case::NoBlock,
        Case::Vrealloc,
    ];

    /// The case of this name, and this size where it has one: any size will
    /// do, whether or not it is among [`Case::ALL`].
    pub fn named(word: &str, pages: Option<&str>) -> Result<Case, Unknown> {
        let size = pages.map(|pages| pages.trim().parse().map_err(|_| Unknown)).transpose()?;
        match (word, size) {
            ("fix_size", Some(pages)) => Ok(Case::FixSize(pages)),
            ("vm_map_ram", Some(pages)) => Ok(Case::MapRam(pages)),
            _ => Case::ALL.into_iter().find(|case| case.word() == word && case.pages() == size).ok_or(Unknown),
        }
    }

    /// Its name without a size.
    pub const fn word(self) -> &'static str {
        match self {
            Case::FixSize(_) => "fix_size",
            Case::FullFit => "full_fit",
            Case::LongBusyList => "long_busy_list",
            Case::RandomSize => "random_size",
            Case::FixAlign => "fix_align",
            Case::RandomSizeAlign => "random_size_align",
            Case::AlignShift => "align_shift",
            Case::Pcpu => "pcpu",
            Case::MapRam(_) => "vm_map_ram",
            Case::KvfreeRcu1 => "kvfree_rcu_1",
            Case::KvfreeRcu2 => "kvfree_rcu_2",
            Case::NoBlock => "no_block",
            Case::Vrealloc => "vrealloc",
        }
    }

    /// The pages of an area, where all have the same.
    pub const fn pages(self) -> Option<usize> {
        match self {
            Case::FixSize(pages) | Case::MapRam(pages) => Some(pages),
            _ => None,
        }
    }

    /// Whether its areas are cleared.
    pub const fn clears(self) -> bool {
        matches!(self, Case::FixAlign | Case::RandomSizeAlign)
    }

    /// Linux's number for it in `run_test_mask`; sizes of one case share it.
    pub const fn id(self) -> u32 {
        match self {
            Case::FixSize(_) => 1,
            Case::FullFit => 2,
            Case::LongBusyList => 4,
            Case::RandomSize => 8,
            Case::FixAlign => 16,
            Case::RandomSizeAlign => 32,
            Case::AlignShift => 64,
            Case::Pcpu => 128,
            Case::KvfreeRcu1 => 256,
            Case::KvfreeRcu2 => 512,
            Case::MapRam(_) => 1024,
            Case::NoBlock => 2048,
            Case::Vrealloc => 4096,
        }
    }

    /// Whether Linux expects it to fail: a run of it may end in refusals that are no fault.
    pub const fn may_be_refused(self) -> bool {
        matches!(self, Case::AlignShift | Case::NoBlock)
    }

    /// What lives at once: so many loops make something before it is freed. A measurement takes
    /// a multiple of them.
    pub const fn lives(self) -> usize {
        match self {
            Case::Pcpu => 35_000,
            _ => 1,
        }
    }

    /// About how long a loop is, in pages made and freed: measurements of
    /// about the same length do with fewer loops the longer they are.
    pub const fn weight(self) -> usize {
        match self {
            Case::FixSize(pages) | Case::MapRam(pages) => pages,
            Case::FullFit => 1,
            Case::LongBusyList => 101,
            Case::RandomSize => 50,
            Case::FixAlign => 5,
            Case::RandomSizeAlign => 6,
            // Most of its areas need a run of their own.
            Case::AlignShift => 20_000,
            Case::Pcpu | Case::KvfreeRcu1 | Case::KvfreeRcu2 | Case::NoBlock => 1,
            Case::Vrealloc => 40,
        }
    }
}

/// `fix_size 16`, `full_fit`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pages() {
            Some(pages) => write!(f, "{} {pages}", self.word()),
            None => f.write_str(self.word()),
        }
    }
}

/// No case has this name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unknown;

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such case; there are:")?;
        Case::ALL.iter().try_for_each(|case| write!(f, " `{case}`"))
    }
}

impl core::error::Error for Unknown {}

impl FromStr for Case {
    type Err = Unknown;

    /// As it is printed.
    fn from_str(text: &str) -> Result<Case, Unknown> {
        match text.split_once(' ') {
            Some((word, pages)) => Case::named(word, Some(pages)),
            None => Case::named(text, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for case in Case::ALL {
            assert_eq!(case.to_string().parse(), Ok(case));
        }
        assert_eq!("fix_size 33".parse(), Ok(Case::FixSize(33)));
    }

    #[test]
    fn a_name_that_is_none_is_told_what_there_is() {
        for wrong in ["", "fix", "full_fit 3", "fix_size", "fix_size x", "vm_map_ram -1"] {
            assert_eq!(wrong.parse::<Case>(), Err(Unknown), "{wrong:?}");
        }
        assert!(Unknown.to_string().contains("`fix_size 16`"));
    }
}
