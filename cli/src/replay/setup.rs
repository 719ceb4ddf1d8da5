//! What all stages do alike to set an instance up and to look at it.

use crate::options::Replay;
use crate::trace::script::Script;
use std::fmt;
use std::ops::Range;
use vmalloc::config::Config;
use vmalloc_replay::worker::caller_number;

/// The widest region that is made.
const REGION_CAP: u64 = 64 << 30;

/// Prints the name of a caller of the script.
pub fn symbolizer(callers: Vec<String>) -> impl Fn(usize, &mut fmt::Formatter<'_>) -> fmt::Result + Send + Sync {
    move |pc, f| match caller_number(pc).and_then(|number| callers.get(number)) {
        Some(name) => f.write_str(name),
        None => write!(f, "{pc:#x}"),
    }
}

/// How large each region of a stage is: as recorded, but not larger than an
/// instance needs for any trace that fits a machine.
pub fn region_bytes(script: &Script) -> impl Iterator<Item = usize> {
    script.regions.iter().enumerate().map(|(region, range)| {
        let wishes = script.areas.iter().filter(move |area| area.place.region as usize == region);
        let wished = wishes.filter_map(|area| area.place.within).map(|(_, end)| end).max().unwrap_or(0);
        (range.end - range.start).min(wished.max(REGION_CAP)) as usize
    })
}

/// The configuration that `options` ask for.
pub fn config(options: &Replay, regions: &[Range<usize>]) -> Config {
    let config = regions[1..]
        .iter()
        .fold(Config::region(regions[0].clone()), |config, region| config.add_region(region.clone()));
    config.placement(options.placement.into()).policy(options.policy.into())
}
