//! Tests of `check`: each one breaks a rule on purpose.

use super::*;
use crate::frames::descriptor::Descriptor;
use crate::gfp::ZoneKind;
use crate::machine::frames::{Frames, Want};
use crate::sync::plain::AtomicU32;
use crate::testing::{TestLock, TestZones, ram};
use crate::units::{Node, Pfn};

/// Frames 0..4 are out, 4..8 a free block of order 2, 8..16 one of order 3,
/// 24..28 one of order 2.
fn sample() -> TestZones {
    let real = TestZones::new(&[ram(0, 16, 0), ram(24, 4, 0)], None);
    let want = Want::bookkeeping(Node(0)).order(2);
    let [first, second] = core::array::from_fn(|_| real.zones.alloc(want));
    assert_eq!((first, second), (Some(Pfn(24)), Some(Pfn(0))));
    // SAFETY: `alloc` gave it out.
    unsafe { real.zones.free(Pfn(24), 2) }
    assert_eq!(real.inner().check(), Ok(()));
    real
}

/// The result of `check` after `f` has changed the descriptor of `frame`.
fn after(frame: u32, f: impl FnOnce(&Descriptor)) -> Result<(), Broken> {
    let real = sample();
    f(real.inner().descriptors().unwrap().at(frame));
    real.inner().check()
}

fn set(link: &AtomicU32, to: u32) {
    link.store(to, Relaxed);
}

fn rule(rule: &'static str, at: usize) -> Result<(), Broken> {
    Err(Broken { rule, at })
}

#[test]
fn b1_blocks_tile_the_ram() {
    assert_eq!(after(0, |d| d.set_state(State::Inside)), rule("B1", 0), "no head");
    assert_eq!(after(9, |d| d.set_state(State::Free(0))), rule("B1", 8), "a head inside a block");
    assert_eq!(after(9, |d| d.set_state(State::Hole)), rule("B1", 8), "a hole inside a block");
    assert_eq!(after(0, |d| d.set_state(State::Out(1))), rule("B1", 2), "frames in no block");
    assert_eq!(after(24, |d| d.set_state(State::Out(5))), rule("B1", 24), "beyond the end");
    assert_eq!(after(0, |d| d.set_state(State::Out(99))), rule("B1", 0), "no such order");
    let home = Home { zone: ZoneKind::Dma, node: Node(1) };
    assert_eq!(after(2, |d| d.set(Tag::new(State::Inside, home))), rule("B1", 0), "two homes");
}

#[test]
fn b2_free_buddies_are_merged() {
    assert_eq!(after(0, |d| d.set_state(State::Free(2))), rule("B2", 0));
}

#[test]
fn b3_lists_link_what_is_free() {
    assert_eq!(after(24, |d| set(d.next(), NONE)), rule("B3", 25), "cut short");
    assert_eq!(after(24, |d| set(d.prev(), 4)), rule("B3", 24), "prev does not invert next");
    assert_eq!(after(24, |d| set(d.next(), 0)), rule("B3", 0), "a block that is out");
    assert_eq!(after(24, |d| set(d.next(), 999)), rule("B3", 999), "nowhere");
    assert_eq!(after(4, |d| set(d.next(), 24)), rule("B3", 24), "a ring");
    assert_eq!(after(8, |d| d.set_state(State::Out(3))), rule("B3", 8), "listed, but out");
}

#[test]
fn b4_the_counts_are_right() {
    let broken = |f: fn(&mut Buddy)| {
        let real = sample();
        real.inner().with(0, |zones| f(&mut zones.zones[0]));
        real.inner().check()
    };
    assert_eq!(broken(|zone| zone.free += 1), rule("B4", 0));
    assert_eq!(broken(|zone| zone.total -= 1), rule("B4", 0));
    let unlisted = broken(|zone| {
        zone.blocks[3] = 0;
        zone.heads[3] = NONE;
    });
    assert_eq!(unlisted, rule("B4", 0), "free, but in no list");
}

#[test]
fn b5_a_free_frame_has_no_holders() {
    assert_eq!(after(13, |d| d.page.extra.store(1, Relaxed)), rule("B5", 13));
    assert_eq!(after(1, |d| d.page.extra.store(1, Relaxed)), Ok(()), "a frame that is out may");
}

#[test]
fn zones_that_were_not_initialised_are_sound() {
    assert_eq!(Zones::<TestLock>::new().check(), Ok(()));
}
