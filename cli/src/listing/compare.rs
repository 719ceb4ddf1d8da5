//! How what is live here compares with a listing.
//!
//! Two listings of the same moment on two machines agree in what was asked
//! for, never in the addresses. So they are compared as bags of (size, caller,
//! kind), where
//!
//! - a caller is a symbol and an offset; the symbol's length and the space
//!   before a module's name are left out, since traces have neither;
//! - an area whose caller is `?` was recorded without more than its size: it
//!   matches any one area of that size;
//! - `unpurged` areas are freed ones, which are nobody's.

use super::area::Area;
use crate::trace::script::NO_CALLER;
use std::collections::BTreeMap;
use std::fmt;

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

impl Entry {
    /// What of a live area is compared; nothing of a freed one.
    pub fn of(area: &Area) -> Option<Entry> {
        let caller = area.caller.as_ref().map_or(String::new(), |caller| {
            let module = caller.module.as_ref().map_or(String::new(), |module| format!("[{module}]"));
            format!("{}{module}", caller.place)
        });
        area.is_live().then(|| Entry { size: area.size, caller, kind: area.words.purpose().to_owned() })
    }

    fn is_unknown(&self) -> bool {
        self.caller == NO_CALLER
    }
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

/// The listing's areas that have no partner yet.
struct Left<'t>(BTreeMap<&'t Entry, usize>);

impl Left<'_> {
    /// Pairs one of the areas that `matches`; false if there is none left.
    fn take(&mut self, matches: impl Fn(&Entry) -> bool) -> bool {
        let found = self.0.iter_mut().find(|(other, n)| **n > 0 && matches(other));
        found.map(|(_, n)| *n -= 1).is_some()
    }

    /// Pairs one that equals `entry`.
    fn take_equal(&mut self, entry: &Entry) -> bool {
        let found = self.0.get_mut(entry).filter(|n| **n > 0);
        found.map(|n| *n -= 1).is_some()
    }
}

/// Compares `ours` with what `theirs` lists.
///
/// Areas that match exactly are paired first: only they could. Then those of ours that are
/// known take what is unknown there, since they can take nothing else; an unknown one of ours
/// takes any of its size that is left. No other pairing matches more.
pub fn compare(ours: &[Entry], theirs: &[Entry]) -> Comparison {
    let mut left = Left(BTreeMap::new());
    theirs.iter().for_each(|entry| *left.0.entry(entry).or_default() += 1);
    let (unknown, known): (Vec<&Entry>, Vec<&Entry>) = ours.iter().partition(|entry| entry.is_unknown());
    let mut extra: Vec<&Entry> = known.into_iter().filter(|entry| !left.take_equal(entry)).collect();
    extra.retain(|entry| !left.take(|other| other.is_unknown() && other.size == entry.size));
    extra.extend(unknown.into_iter().filter(|entry| !left.take(|other| other.size == entry.size)));
    let mut extra: Vec<Entry> = extra.into_iter().cloned().collect();
    extra.sort();
    let missing = left.0.into_iter().flat_map(|(entry, n)| vec![entry.clone(); n]).collect();
    Comparison { matched: ours.len() - extra.len(), missing, extra }
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

    fn read(name: &str, text: &[u8]) -> Vec<Entry> {
        crate::listing::read(name, text).unwrap()
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

    #[test]
    fn areas_that_a_listing_knows_by_size_alone_match_any_of_their_size() {
        let (a, b, unknown) = (entry(8192, "a+0x1", "vmalloc"), entry(8192, "b+0x1", "vmap"), entry(8192, "?", ""));
        let got = compare(&[a.clone(), b.clone()], &[unknown.clone(), a.clone()]);
        assert_eq!(got, Comparison { matched: 2, missing: vec![], extra: vec![] });
        // The unknown one of ours leaves the unknown one there to who can take nothing else.
        let got = compare(&[unknown.clone(), b.clone()], &[unknown.clone(), a.clone()]);
        assert_eq!(got, Comparison { matched: 2, missing: vec![], extra: vec![] });
        let got = compare(&[b.clone(), entry(4096, "c", "")], &[unknown, a.clone()]);
        assert_eq!(got, Comparison { matched: 1, missing: vec![a], extra: vec![entry(4096, "c", "")] });
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
        read("modelled", format!("0x1-0x2 {} {caller} {kind}", area.pages() * 4096).as_bytes()).remove(0)
    }

    /// Matched, missing and extra lines; the chunks too, or without them.
    fn counts(trace: &[u8], listing: &[u8], chunks: bool) -> (usize, usize, usize) {
        let script = trace::read("trace", trace).unwrap();
        let theirs = read("listing", listing);
        let kept = |id: &AreaId| chunks || !matches!(script.played().area(*id).make, Make::Pcpu(_));
        let ours: Vec<Entry> =
            live_at_the_end(&script).into_iter().filter(|(id, _)| kept(id)).map(|(_, entry)| entry).collect();
        let result = compare(&ours, &theirs);
        assert_eq!(result.matched + result.missing.len(), theirs.len());
        (result.matched, result.missing.len(), result.extra.len())
    }

    #[test]
    fn the_traces_end_in_linux_own_listings() {
        const BOOT_TRACE: &[u8] = include_bytes!("../../../traces/boot.txt.gz");
        const BOOT: &[u8] = include_bytes!("../../../traces/boot.vmallocinfo.gz");
        const MIX: &[u8] = include_bytes!("../../../traces/mix.vmallocinfo.gz");
        assert_eq!(counts(BOOT_TRACE, BOOT, false), (370, 1, 0));
        assert_eq!(counts(BOOT_TRACE, BOOT, true), (371, 0, 0));
        assert_eq!(counts(crate::MIX, MIX, false), (474, 2, 0));
        // One stack was made between the trace's end and the listing.
        assert_eq!(counts(crate::MIX, MIX, true), (475, 1, 0));
    }
}
