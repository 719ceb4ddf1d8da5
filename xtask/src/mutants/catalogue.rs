//! All changes of the library, each with a name that stays when others come
//! and go, and the samples that are drawn of them.

use super::sites::{Site, sites};
use crate::tidy::floors::{BOTTOM, MIDDLE};
use crate::tidy::tree::{Source, Tree};
use anyhow::{Context, Result};
use std::collections::BTreeMap;

/// The parts that a sample is drawn from.
pub const PARTS: [&str; 5] = ["top", "space", "frames", "table", "flush"];
const LIBRARY: &str = "vmalloc/src/";

/// A change, and where it belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mutant {
    /// Eight hexadecimal digits, made of its file, function and change.
    pub id: String,
    /// One of [`PARTS`].
    pub part: &'static str,
    /// Where, and what.
    pub site: Site,
}

/// All mutants of the project's library, ordered by place. A mutant's number
/// is its index.
pub fn catalogue(tree: &Tree) -> Result<Vec<Mutant>> {
    let mut all = Vec::new();
    let mut seen = BTreeMap::new();
    for source in tree.sources.iter().filter(|source| source.path.starts_with(LIBRARY) && !source.test) {
        let Some(part) = part_of(source) else { continue };
        let text = tree.texts.iter().find(|text| text.path == source.path).context("a source is a text")?;
        for site in sites(&source.path, &text.text)? {
            let name = format!("{} {} {}", site.path, site.function, site.change);
            let twins = seen.entry(name.clone()).or_insert(0);
            let id = format!("{:08x}", hash(&format!("{name} {twins}")) as u32);
            *twins += 1;
            all.push(Mutant { id, part, site });
        }
    }
    Ok(all)
}

/// None for the bottom, which everything else tests, and for the crate's root.
fn part_of(source: &Source) -> Option<&'static str> {
    let first = source.module.first()?.as_str();
    match first {
        _ if BOTTOM.contains(&first) => None,
        _ if MIDDLE.contains(&first) => PARTS.iter().copied().find(|part| *part == first),
        _ => Some("top"),
    }
}

/// `size` of `mutants`, from each part as many as it has a share, chosen by
/// `seed`. A smaller sample of a part is the beginning of a larger one.
pub fn sample(mutants: &[Mutant], size: usize, seed: u64) -> Vec<usize> {
    let drawn = |part: &'static str| {
        let mut of_part: Vec<usize> = (0..mutants.len()).filter(|&n| mutants[n].part == part).collect();
        of_part.sort_by_key(|&n| hash(&format!("{seed} {}", mutants[n].id)));
        of_part
    };
    let parts = PARTS.map(drawn);
    let quotas = shares(&parts.each_ref().map(Vec::len), size.min(mutants.len()));
    parts.into_iter().zip(quotas).flat_map(|(part, quota)| part.into_iter().take(quota)).collect()
}

/// `size` dealt out in proportion to `weights`: what is left after rounding
/// down goes to the largest remainders.
fn shares(weights: &[usize], size: usize) -> Vec<usize> {
    let total: usize = weights.iter().sum::<usize>().max(1);
    let mut shares: Vec<usize> = weights.iter().map(|weight| weight * size / total).collect();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|&n| std::cmp::Reverse(weights[n] * size % total));
    let left = size.saturating_sub(shares.iter().sum());
    by_remainder.into_iter().take(left).for_each(|n| shares[n] += 1);
    shares
}

/// FNV-1a, and a last mix so that all bits depend on all characters.
fn hash(text: &str) -> u64 {
    let fnv = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Vec<Mutant> {
        let root = ("vmalloc/src/lib.rs", "mod space; mod map; mod units; #[cfg(test)] mod testing; fn f() { g(); }");
        let files = [&[root], files].concat();
        catalogue(&Tree::of(&files)).unwrap()
    }

    const MANY: &str = "fn f() -> T { a + b + c + d + e + f + g + h + i + j + k }";

    #[test]
    fn a_mutant_is_of_a_middle_part_or_of_the_top() {
        let text = "fn f() -> T { a < b }";
        let files = ["space", "map", "units", "testing"].map(|name| format!("vmalloc/src/{name}.rs"));
        let all = of(&files.each_ref().map(|path| (path.as_str(), text)));
        let parts: Vec<_> = all.iter().map(|mutant| (mutant.part, &*mutant.site.path)).collect();
        assert_eq!(parts, [("top", "vmalloc/src/map.rs"), ("space", "vmalloc/src/space.rs")]);
    }

    #[test]
    fn a_name_stays_when_others_come_and_go_and_twins_have_two() {
        let before = of(&[("vmalloc/src/map.rs", "fn f() -> T { a < b }")]);
        let after = of(&[("vmalloc/src/map.rs", "fn e() { d() }\nfn f() -> T { c(a < b, a < b) }")]);
        assert!(after.iter().any(|mutant| mutant.id == before[0].id));
        assert_ne!(after[1].id, after[2].id);
    }

    #[test]
    fn a_sample_has_of_each_part_its_share_and_a_larger_one_has_it_inside() {
        let all = of(&[("vmalloc/src/map.rs", MANY), ("vmalloc/src/space.rs", MANY)]);
        let four = sample(&all, 4, 7);
        let parts: Vec<_> = four.iter().map(|&n| all[n].part).collect();
        assert_eq!(parts, ["top", "top", "space", "space"]);
        let ten = sample(&all, 10, 7);
        assert!(four.iter().all(|n| ten.contains(n)));
        assert_ne!(four, sample(&all, 4, 8));
        assert_eq!(sample(&all, 999, 7).len(), all.len());
    }

    #[test]
    fn what_rounding_leaves_goes_to_the_largest_remainders() {
        assert_eq!(shares(&[50, 30, 20], 10), [5, 3, 2]);
        assert_eq!(shares(&[1, 1, 1], 2), [1, 1, 0]);
        assert_eq!(shares(&[10, 0, 5], 4), [3, 0, 1]);
        assert_eq!(shares(&[], 0), [0; 0]);
    }
}
