//! The zones of one node: which zone serves a request, and which frames it must leave.
//!
//! A request may name a frame to continue at (`Want::next`). It gets that frame if the frame is
//! free and its zone is allowed. Otherwise the node asks its zones, from the named one down. In
//! both cases a lower zone keeps its **reserve** for requests that name it.

use super::buddy::Buddy;
use super::descriptor::{Block, Descriptors, Home, KINDS, State};
use crate::gfp::ZoneKind;
use crate::machine::frames::{MAX_ORDER, Want};
use crate::units::{Node, Pfn};

/// The zones of one node.
#[derive(Debug)]
pub(super) struct NodeZones {
    pub zones: [Buddy; KINDS.len()],
}

impl NodeZones {
    pub const fn new(node: Node) -> NodeZones {
        const fn zone(zone: ZoneKind, node: Node) -> Buddy {
            Buddy::new(Home { zone, node })
        }
        let [dma, dma32, normal, high] = KINDS;
        NodeZones { zones: [zone(dma, node), zone(dma32, node), zone(normal, node), zone(high, node)] }
    }

    /// The number of free frames.
    pub fn free(&self) -> usize {
        self.zones.iter().map(|zone| zone.free).sum()
    }

    /// Adds an aligned block of RAM to its zone.
    pub fn add(&mut self, d: Descriptors, head: u32, order: u8, home: Home) {
        let zone = &mut self.zones[home.zone as usize];
        zone.total += 1 << order;
        zone.give(d, head, order);
    }

    /// Computes the reserves after all RAM was added.
    pub fn set_reserves(&mut self) {
        let mut above = 0;
        for zone in self.zones.iter_mut().rev() {
            zone.reserve = (above / 256).min(zone.total / 4);
            above += zone.total;
        }
    }

    /// Takes a block, at `want.next` if possible.
    pub fn take(&mut self, d: Descriptors, want: Want) -> Option<u32> {
        if let Some((block, target)) = self.continuation(d, want)
            && block.order >= want.order
            && d.aligned(target, want.order)
        {
            return Some(self.zone_of(d, target).cut(d, block, target, want.order));
        }
        self.candidates(want)
            .filter(|zone| room(zone, want) >= 1 << want.order)
            .find_map(|zone| zone.take(d, want.order))
    }

    /// The number of free frames that this request may have.
    pub fn free_for(&mut self, want: Want) -> usize {
        self.candidates(want).map(|zone| room(zone, want)).sum()
    }

    /// Takes single frames until `into` is full or the node has no more for this request. Returns
    /// how many.
    pub fn take_many(&mut self, d: Descriptors, mut want: Want, into: &mut [Pfn]) -> usize {
        let mut got = 0;
        // Whole blocks first, since there are many small ones after a while.
        if want.next.is_none()
            && let Some(zone) = self.candidates(want).find(|zone| room(zone, want) > 0)
        {
            let most = into.len().min(room(zone, want));
            got = zone.take_whole(d, &mut into[..most]);
        }
        while got < into.len()
            && let Some((head, order)) = self.take_piece(d, want, into.len() - got)
        {
            (0..1 << order).for_each(|n| into[got + n] = d.give_out(head + n as u32));
            got += 1 << order;
            want.next = want.next.map(|_| d.frame(head).offset(1 << order));
        }
        got
    }

    /// Frees a block. Returns false, and changes nothing, unless all of its frames are allocated.
    pub fn give(&mut self, d: Descriptors, first: u32, order: u8) -> bool {
        if order == 0 && d.at(first).state() == State::Out(0) {
            self.zone_of(d, first).give(d, first, 0);
            return true;
        }
        let Some(cover) = d.covering(first).filter(|block| !block.free) else { return false };
        if cover.order > order {
            let head = cover.carve(first, order, |at, order| d.at(at).set_state(State::Out(order)));
            debug_assert_eq!(head, first);
        } else if !all_out(d, first, order) {
            return false;
        } else {
            // The iterator has read a head's order before the head is changed.
            heads(d, first, order).skip(1).for_each(|head| d.at(head).set_state(State::Inside));
        }
        self.zone_of(d, first).give(d, first, order);
        true
    }

    /// Takes a block of at most `most` frames.
    fn take_piece(&mut self, d: Descriptors, want: Want, most: usize) -> Option<(u32, u8)> {
        let fit = |frames: usize| (frames.ilog2() as u8).min(MAX_ORDER);
        if let Some((block, target)) = self.continuation(d, want) {
            let zone = self.zone_of(d, target);
            let aligned = d.frame(target).0.trailing_zeros().min(MAX_ORDER as u32) as u8;
            let order = block.order.min(aligned).min(fit(most.min(room(zone, want))));
            return Some((zone.cut(d, block, target, order), order));
        }
        let zone = self.candidates(want).find(|zone| room(zone, want) > 0)?;
        let most = most.min(room(zone, want));
        zone.take_up_to(d, fit(most))
    }

    /// The free block that covers `want.next`, and the index of that frame, if the frame is of this
    /// node and its zone is allowed and has frames beyond its reserve.
    fn continuation(&mut self, d: Descriptors, want: Want) -> Option<(Block, u32)> {
        let target = d.index(want.next?)?;
        let home = d.at(target).tag().home();
        let block = d.covering(target).filter(|block| block.free)?;
        let zone = &self.zones[home.zone as usize];
        let ours = zone.home == home && home.zone <= want.zone;
        (ours && room(zone, want) >= 1 << want.order).then_some((block, target))
    }

    fn zone_of(&mut self, d: Descriptors, index: u32) -> &mut Buddy {
        &mut self.zones[d.at(index).tag().home().zone as usize]
    }

    fn candidates(&mut self, want: Want) -> impl Iterator<Item = &mut Buddy> {
        self.zones[..=want.zone as usize].iter_mut().rev()
    }
}

/// The number of frames of the zone that this request may take.
fn room(zone: &Buddy, want: Want) -> usize {
    let kept = if want.zone > zone.home.zone { zone.reserve } else { 0 };
    zone.free.saturating_sub(kept)
}

/// The heads of the blocks inside the block of `order` at `first`.
fn heads(d: Descriptors, first: u32, order: u8) -> impl Iterator<Item = u32> {
    let end = first + (1 << order);
    core::iter::successors(Some(first), move |&at| {
        let next = at + d.block(at).map_or(1, |block| 1 << block.order);
        (next < end).then_some(next)
    })
}

/// Whether the block consists of allocated blocks of one home. Takes as many steps as there are
/// such blocks, which is as many as the calls that allocated them.
fn all_out(d: Descriptors, first: u32, order: u8) -> bool {
    let home = d.at(first).tag().home();
    heads(d, first, order).all(|head| {
        let tag = d.at(head).tag();
        tag.home() == home && matches!(tag.state(), State::Out(_))
    })
}
