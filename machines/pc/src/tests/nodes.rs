//! Memory nodes.

use super::{Outcome, check};
use crate::{cpu, vm};
use core::ptr::NonNull;
use vmalloc::Req;
use vmalloc::machine::frames::Frames;
use vmalloc::units::{Node, PAGE_SIZE};

const PAGES: usize = 20;

fn nodes_of(at: NonNull<u8>) -> impl Iterator<Item = Option<Node>> {
    let pages = (0..PAGES).map(move |page| at.addr().get() + page * PAGE_SIZE);
    pages.map(|at| vm().frame_at(at).map(|frame| vm().machine().zones().node_of(frame)))
}

/// An area of frames of `node`, whoever asks; and without a word, of the CPU's.
fn of(node: Option<Node>) -> Outcome {
    let req = Req::pages(PAGES);
    let asked = node.map_or(req.clone(), |node| req.node(node));
    let wanted = node.unwrap_or(cpu::node_of(cpu::index()));
    let at = vm().alloc(asked);
    check!(at.is_ok(), "{at:?}");
    let Ok(at) = at else { return Ok(()) };
    let right = nodes_of(at).all(|node| node == Some(wanted));
    // SAFETY: V1: not used.
    let freed = unsafe { vm().free(at) };
    check!(right, "not all pages are of {wanted:?}");
    check!(freed.is_ok(), "{freed:?}");
    Ok(())
}

pub fn memory_comes_from_the_node_that_is_asked() -> Outcome {
    cpu::on_all(|_| {
        let nodes = vm().machine().zones().nodes() as u8;
        super::note((0..nodes).try_for_each(|node| of(Some(Node(node)))).and_then(|()| of(None)));
    });
    Ok(())
}
