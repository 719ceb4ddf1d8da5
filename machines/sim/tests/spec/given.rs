//! What callers give: what would be given back twice, or is nobody's to give, is
//! refused by name, and nothing has changed.

use crate::common::{REGION, Rig, boot, lines_up, quiet};
use vmalloc::gfp::Gfp;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{Node, Pfn};
use vmalloc::{AllocError, Config, Policy, Req};

fn rig() -> Rig {
    boot(quiet(2).node(32 << 20).node(32 << 20), Config::region(REGION))
}

#[track_caller]
fn refused(rig: &Rig, frames: &[Pfn], error: AllocError) {
    let before = (rig.stats().areas, rig.stats().pages, rig.listing());
    // SAFETY: P2 does not hold, which is what has to be noticed.
    let made = unsafe { rig.vmap_owned(frames, Req::bytes(0).gfp(Gfp::KERNEL | Gfp::NOWARN)) };
    assert_eq!(made, Err(error));
    assert_eq!((rig.stats().areas, rig.stats().pages, rig.listing()), before);
}

#[test]
fn g3_a_frame_that_is_given_to_an_area_twice_is_refused() {
    for policy in [Policy::Unmap, Policy::Strict, Policy::Park, Policy::Keep] {
        let rig = rig();
        rig.set_policy(policy);
        let frames = rig.frames(300);
        let [g, h, i] = [frames[0], frames[1], frames[2]];
        for twice in [&[g, g][..], &[g, h, g], &[h, g, i, i], &[g, h, i, h, g]] {
            let first = *twice.iter().find(|&&f| twice.iter().filter(|&&other| other == f).count() > 1).unwrap();
            refused(&rig, twice, AllocError::SameFrame(first));
        }
        let many: Vec<_> = frames.iter().copied().chain([frames[7]]).collect();
        refused(&rig, &many, AllocError::SameFrame(frames[7]));
        // They are the caller's still: each is given once.
        // SAFETY: P2: one hold on each.
        let area = unsafe { rig.vmap_owned(&frames, Req::bytes(0)) }.unwrap();
        rig.give(area).unwrap();
        rig.purge();
        let mut again = rig.frames(600);
        again.sort();
        again.dedup();
        assert_eq!(again.len(), 600, "no frame was handed out twice");
        rig.give_frames(&again);
        assert_eq!(rig.check(), Ok(()));
    }
}

#[test]
fn g3_what_is_not_out_cannot_be_given_to_an_area() {
    let rig = rig();
    let frames = rig.frames(2);
    let end = rig.sim.frames().end();
    rig.give_frames(&frames[1..]);
    rig.reclaim(usize::MAX);
    for odd in [frames[1], end, Pfn(end.0 + 5), Pfn(u64::MAX), Pfn(0xfe00_0000 >> 12)] {
        assert!(!rig.sim.frames().is_out(odd), "{odd:?}");
        refused(&rig, &[frames[0], odd], AllocError::NotOut(odd));
    }
    assert!(rig.sim.frames().is_out(frames[0]));
    rig.give_frames(&frames[..1]);
}

#[test]
fn g3_what_is_not_out_cannot_be_given_up() {
    let rig = rig();
    let frame = rig.frames(1)[0];
    rig.give_frames(&[frame]);
    rig.reclaim(usize::MAX);
    let free = rig.sim.frames().free_now();
    for odd in [frame, rig.sim.frames().end(), Pfn(0xfe00_0000 >> 12)] {
        rig.give_frames(&[odd]);
        let (told, (file, line)) = (rig.complaints(), lines_up(1));
        assert_eq!(told, [format!("{odd:?} is given up, and is no frame that was given out, by {file}:{line}")]);
        rig.reclaim(usize::MAX);
        assert_eq!(rig.sim.frames().free_now(), free);
    }
}

#[test]
fn a_node_that_there_is_not_is_refused_by_name() {
    let rig = rig();
    let nodes = 2;
    assert_eq!(rig.sim.frames().nodes(), nodes);
    for node in [Node(nodes as u8), Node(200), Node(255)] {
        let error = AllocError::BadNode { node, nodes };
        for pages in [1, 5, 100, 600] {
            let req = Req::pages(pages).node(node).gfp(Gfp::KERNEL | Gfp::NOWARN);
            assert_eq!(rig.alloc(req.clone()), Err(error));
            assert_eq!(rig.reserve(req), Err(error));
        }
        assert_eq!(rig.alloc_frame(Gfp::KERNEL | Gfp::NOWARN, Some(node)), Err(error));
        assert_eq!(error.to_string(), format!("no node {}: there are 2", node.0));
    }
    rig.alloc(Req::pages(5).node(Node(1))).unwrap();
}

#[test]
fn a_node_that_there_is_not_is_refused_where_there_is_but_one_too() {
    let rig = boot(quiet(1), Config::region(REGION));
    let error = AllocError::BadNode { node: Node(1), nodes: 1 };
    for policy in [Policy::Unmap, Policy::Park, Policy::Keep] {
        rig.set_policy(policy);
        for pages in [1, 100, 600] {
            // Then a slot is at hand, or cached.
            rig.give(rig.alloc(Req::pages(pages)).unwrap()).unwrap();
            let made = rig.alloc(Req::pages(pages).node(Node(1)).gfp(Gfp::KERNEL | Gfp::NOWARN));
            assert_eq!(made, Err(error), "{policy:?}, {pages} pages");
        }
    }
}
