//! Listings in the form of `/proc/vmallocinfo`, and how two of them compare.
//!
//! ```text
//!   0xffffc90000040000-0xffffc90000045000   20480 kernel_clone+0xc2/0x430 pages=4 vmalloc N0=4
//!   0xffffc90000311000-0xffffc90000313000    8192 z_erofs_init+0x6/0x21 [erofs] vmap
//!   0xffffc90001000000-0xffffc90001100000 1048576 vm_map_ram
//!   0xffffc90000459000-0xffffc9000045c000   12288 unpurged vm_area
//! ```
//!
//! Two listings of the same moment on two machines agree in what was asked
//! for, never in the addresses. So they are compared as bags of (size, caller,
//! kind), where
//!
//! - a caller is a symbol and an offset; the symbol's length and the space
//!   before a module's name are left out, since traces have neither;
//! - an area of ours whose caller is `?` was made before the recorder could
//!   see more than its size: it matches any one area of that size;
//! - `unpurged` areas are freed ones, which are nobody's.

use crate::trace::error::{Reason, TraceError};
use crate::trace::script::NO_CALLER;
use crate::trace::source::{Lines, shortened};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The words that say what an area is for.
const KINDS: [&str; 6] = ["ioremap", "sparse", "vmalloc", "vmap", "dma-coherent", "vm_map_ram"];
/// Words that say more about it.
const REMARKS: [&str; 2] = ["user", "vpages"];

/// An area of a listing: what of it does not depend on the machine.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Entry {
    /// Bytes, with the guard.
    pub size: u64,
    /// Who asked for it; empty where the listing does not say.
    pub caller: String,
    /// What it is for; empty where the listing does not say.
    pub kind: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9}", self.size)?;
        [&self.caller, &self.kind].iter().filter(|word| !word.is_empty()).try_for_each(|word| write!(f, " {word}"))
    }
}

/// How our areas compare with those of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Comparison {
    /// Areas that both have.
    pub matched: usize,
    /// Areas that only the listing has, sorted.
    pub missing: Vec<Entry>,
    /// Areas that only we have, sorted.
    pub extra: Vec<Entry>,
}

/// Reads the listing at `path`, plain or gzipped.
pub fn load(path: &Path) -> Result<Vec<Entry>, TraceError> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => read(&name, file),
        Err(cause) => Err(TraceError::Open { file: name, cause }),
    }
}

/// Reads the listing `from`, which errors call `name`.
pub fn read(name: &str, from: impl Read) -> Result<Vec<Entry>, TraceError> {
    let mut lines = Lines::new(name, from)?;
    let mut entries = Vec::new();
    while let Some((_, text)) = lines.next_line()? {
        let entry = parse(text).ok_or_else(|| Reason::NoListing(shortened(text)));
        entries.extend(entry.map_err(|reason| lines.blame(reason))?);
    }
    Ok(entries)
}

/// The area of a line: `Some(None)` where it is a freed one.
fn parse(text: &str) -> Option<Option<Entry>> {
    let mut words = text.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    if !start.starts_with("0x") || !end.starts_with("0x") {
        return None;
    }
    let mut entry = Entry { size: words.next()?.parse().ok()?, ..Entry::default() };
    for word in words {
        if word == "unpurged" {
            return Some(None);
        } else if KINDS.contains(&word) {
            entry.kind = word.to_owned();
        } else if word.starts_with('[') {
            entry.caller.push_str(word);
        } else if entry.caller.is_empty() && !word.contains('=') && !REMARKS.contains(&word) {
            entry.caller = word.split_once('/').map_or(word, |(symbol, _length)| symbol).to_owned();
        }
    }
    Some(Some(entry))
}

/// Compares `ours` with what `theirs` lists.
///
/// Areas that match exactly are paired first: only they could, and an area of
/// unknown origin then takes any of its size that is left. No other pairing
/// matches more.
pub fn compare(ours: &[Entry], theirs: &[Entry]) -> Comparison {
    let mut left: BTreeMap<&Entry, usize> = BTreeMap::new();
    theirs.iter().for_each(|entry| *left.entry(entry).or_default() += 1);
    let mut result = Comparison::default();
    let (unknown, known): (Vec<&Entry>, Vec<&Entry>) = ours.iter().partition(|entry| entry.caller == NO_CALLER);
    for entry in known.into_iter().chain(unknown) {
        let same_size = || left.iter().find(|(other, n)| **n > 0 && other.size == entry.size).map(|(&other, _)| other);
        let partner = if entry.caller == NO_CALLER { same_size() } else { Some(entry) };
        match partner.and_then(|partner| left.get_mut(partner)).filter(|n| **n > 0) {
            Some(n) => {
                *n -= 1;
                result.matched += 1;
            }
            None => result.extra.push(entry.clone()),
        }
    }
    result.missing = left.into_iter().flat_map(|(entry, n)| vec![entry.clone(); n]).collect();
    result.extra.sort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace;
    use crate::trace::script::{Act, Area, AreaId, Make, Script};
    use std::collections::BTreeSet;

    fn entry(size: u64, caller: &str, kind: &str) -> Entry {
        Entry { size, caller: caller.to_owned(), kind: kind.to_owned() }
    }

    #[test]
    fn lines_are_reduced_to_size_caller_and_kind() {
        let of = |rest: &str| parse(&format!("0x1-0x2 {rest}"));
        let some = |size, caller, kind| Some(Some(entry(size, caller, kind)));
        assert_eq!(
            of("  20480 kernel_clone+0xc2/0x430 pages=4 vmalloc N0=4"),
            some(20480, "kernel_clone+0xc2", "vmalloc")
        );
        assert_eq!(of("8192 grow+0x186/0x210 [erofs] vmap"), some(8192, "grow+0x186[erofs]", "vmap"));
        assert_eq!(of("8192 f+0x1a9/0x1e0 phys=0x00000000bffe1000 ioremap"), some(8192, "f+0x1a9", "ioremap"));
        assert_eq!(of("8192 f+0x1/0x2 pages=1 vmap user"), some(8192, "f+0x1", "vmap"));
        assert_eq!(of("1048576 vm_map_ram"), some(1048576, "", "vm_map_ram"));
        assert_eq!(of("8192 ? pages=1 vmalloc"), some(8192, "?", "vmalloc"));
        assert_eq!(of("4096 f+0x1"), some(4096, "f+0x1", ""));
        assert_eq!(of("12288 unpurged vm_area"), Some(None));
        for wrong in ["nonsense", "", "8k vmalloc", "-1"] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse("12-13 4096 vmalloc"), None);
    }

    #[test]
    fn a_line_that_is_none_is_refused_with_its_number() {
        let error = read("list", b"0x1-0x2 4096 f\nhello\n".as_slice()).unwrap_err().to_string();
        assert_eq!(error, "list:2: not a line of a vmallocinfo listing: \"hello\"");
    }

    #[test]
    fn bags_are_compared_one_for_one() {
        let a = || entry(8192, "a+0x1", "vmalloc");
        let b = || entry(8192, "b+0x1", "vmap");
        let got = compare(&[a(), a(), b()], &[a(), b(), b()]);
        assert_eq!(got, Comparison { matched: 2, missing: vec![b()], extra: vec![a()] });
    }

    #[test]
    fn areas_of_unknown_origin_take_what_the_others_leave() {
        let (a, unknown) = (entry(8192, "a+0x1", "vmalloc"), entry(8192, "?", "vmalloc"));
        let theirs = [a.clone(), entry(8192, "b+0x1", "ioremap"), entry(4096, "c+0x1", "vmap")];
        let got = compare(&[unknown.clone(), unknown.clone(), a], &theirs);
        assert_eq!(got, Comparison { matched: 2, missing: vec![theirs[2].clone()], extra: vec![unknown] });
    }

    /// What a kernel that does as the script says would list at its end.
    fn live_at_the_end(script: &Script) -> Vec<(AreaId, Entry)> {
        let mut live = BTreeSet::new();
        for step in &script.steps {
            match step.act {
                Act::Make(id) => drop(live.insert(id)),
                Act::Free(id) | Act::Settled(id) => drop(live.remove(&id)),
                _ => {}
            }
        }
        live.into_iter().map(|id| (id, modelled(script, script.played().area(id)))).collect()
    }

    fn modelled(script: &Script, area: &Area) -> Entry {
        let kind = match area.make {
            Make::Vmap => "vmap",
            Make::Ioremap => "ioremap",
            Make::Reserve | Make::Pcpu(_) => "",
            _ => "vmalloc",
        };
        let caller = &script.callers[area.caller as usize];
        parse(&format!("0x1-0x2 {} {caller} {kind}", area.pages() * 4096)).unwrap().unwrap()
    }

    /// Matched, missing and extra lines; the chunks too, or without them.
    fn counts(trace: &[u8], listing: &[u8], chunks: bool) -> (usize, usize, usize) {
        let script = trace::read("trace", trace).unwrap();
        let theirs = read("listing", listing).unwrap();
        let kept = |id: &AreaId| chunks || !matches!(script.played().area(*id).make, Make::Pcpu(_));
        let ours: Vec<Entry> =
            live_at_the_end(&script).into_iter().filter(|(id, _)| kept(id)).map(|(_, entry)| entry).collect();
        let result = compare(&ours, &theirs);
        assert_eq!(result.matched + result.missing.len(), theirs.len());
        (result.matched, result.missing.len(), result.extra.len())
    }

    #[test]
    fn the_traces_end_in_linux_own_listings() {
        const BOOT_TRACE: &[u8] = include_bytes!("../../traces/boot.txt.gz");
        const BOOT: &[u8] = include_bytes!("../../traces/boot.vmallocinfo.gz");
        const MIX: &[u8] = include_bytes!("../../traces/mix.vmallocinfo.gz");
        assert_eq!(counts(BOOT_TRACE, BOOT, false), (370, 1, 0));
        assert_eq!(counts(BOOT_TRACE, BOOT, true), (371, 0, 0));
        assert_eq!(counts(crate::MIX, MIX, false), (474, 2, 0));
        // One stack was made between the trace's end and the listing.
        assert_eq!(counts(crate::MIX, MIX, true), (475, 1, 0));
    }
}
