//! `Zones::check`: walks all descriptors and lists, and reports a broken rule with the frame.

use super::buddy::{Buddy, ORDERS};
use super::descriptor::{Block, Descriptors, Home, NONE, State, Tag};
use super::map::MAX_NODES;
use super::node::NodeZones;
use super::zones::Zones;
use crate::error::Broken;
use crate::machine::frames::MAX_ORDER;
use crate::sync::plain::Ordering::Relaxed;
use lock_api::RawMutex;

/// The totals of one zone, from its descriptors.
#[derive(PartialEq, Eq, Default, Debug)]
struct Found {
    total: usize,
    free: usize,
    blocks: [usize; ORDERS],
}

impl<L: RawMutex> Zones<L> {
    /// Checks the rules B1–B5 of the module. The caller is pinned.
    ///
    /// # Errors
    /// The first broken rule, and the frame.
    ///
    /// # Cost
    /// O(frames), each node under its lock.
    pub fn check(&self) -> Result<(), Broken> {
        let Some(d) = self.descriptors() else { return Ok(()) };
        (0..MAX_NODES).try_for_each(|node| self.with(node, |zones| check_node(zones, d)))
    }
}

fn check_node(zones: &NodeZones, d: Descriptors) -> Result<(), Broken> {
    zones.zones.iter().filter(|zone| zone.total > 0).try_for_each(|zone| {
        let found = check_tiles(d, zone.home)?;
        check_lists(d, zone)?;
        let counted = Found { total: zone.total, free: zone.free, blocks: zone.blocks };
        unless(counted == found, d, "B4", 0)
    })
}

/// `Ok` if `rule` holds for the frame at `index`.
fn unless(holds: bool, d: Descriptors, rule: &'static str, index: u32) -> Result<(), Broken> {
    Broken::unless(holds, rule, d.frame(index).0 as usize)
}

/// Checks B1, B2 and B5 for the frames of `home`, block by block.
fn check_tiles(d: Descriptors, home: Home) -> Result<Found, Broken> {
    let mut found = Found::default();
    let mut at = 0;
    while (at as usize) < d.all.len() {
        let tag = d.at(at).tag();
        if tag.state() == State::Hole || tag.home() != home {
            at += 1;
            continue;
        }
        let block = d.block(at).ok_or(Broken { rule: "B1", at: d.frame(at).0 as usize })?;
        check_block(d, home, block)?;
        found.total += 1 << block.order;
        found.free += (block.free as usize) << block.order;
        found.blocks[block.order as usize] += block.free as usize;
        at += 1 << block.order;
    }
    Ok(found)
}

fn check_block(d: Descriptors, home: Home, block: Block) -> Result<(), Broken> {
    let Block { head, order, free } = block;
    let whole = order <= MAX_ORDER && d.aligned(head, order) && head as usize + (1 << order) <= d.all.len();
    let inside = Tag::new(State::Inside, home);
    unless(whole && (head + 1..head + (1 << order)).all(|at| d.at(at).tag() == inside), d, "B1", head)?;
    let free_tag = Tag::new(State::Free(order), home);
    let merged = order == MAX_ORDER || d.buddy(head, order).is_none_or(|buddy| d.at(buddy).tag() != free_tag);
    unless(!free || merged, d, "B2", head)?;
    let held = (head..head + (1 << order)).find(|&at| d.at(at).page.extra.load(Relaxed) != 0);
    unless(!free || held.is_none(), d, "B5", held.unwrap_or(head))
}

/// Checks B3. B4 checks the lengths, so a list is right if all of its members are right.
fn check_lists(d: Descriptors, zone: &Buddy) -> Result<(), Broken> {
    for (order, (&head, &blocks)) in zone.heads.iter().zip(&zone.blocks).enumerate() {
        let tag = Tag::new(State::Free(order as u8), zone.home);
        let (mut prev, mut at) = (NONE, head);
        for _ in 0..blocks {
            let member = d.all.get(at as usize).is_some_and(|it| it.tag() == tag && it.prev().load(Relaxed) == prev);
            unless(member, d, "B3", if at == NONE { prev.wrapping_add(1) } else { at })?;
            (prev, at) = (at, d.at(at).next().load(Relaxed));
        }
        unless(at == NONE, d, "B3", at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
