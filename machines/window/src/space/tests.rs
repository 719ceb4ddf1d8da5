mod marks;

use super::*;
use std::sync::atomic::AtomicBool;
use std::thread;
use vmalloc::units::Pfn;

fn space() -> Space {
    Space::new(PIECE, os::has_guards(), None, |_, line| panic!("{line}")).expect("a process has room")
}

fn run_of(space: &Space, page: usize) -> Run {
    Run { pages: space.range_of(&(page..page + 1)), first: Pfn(page as u64), prot: Prot::RW }
}

/// Two runs with a page between them, which another thread binds while they are closed together (H3).
#[test]
fn a_page_that_is_bound_while_runs_around_it_are_joined_stays_bound() {
    let (space, over) = (space(), AtomicBool::new(false));
    let [below, between, above] = [1, 2, 3].map(|page| run_of(&space, page));
    let joins = || {
        for _ in 0..100_000 {
            [below, above].into_iter().for_each(|run| space.bind(run).expect("memory enough"));
            [below, above].into_iter().for_each(|run| space.unbind(run.pages));
            assert!(space.drain());
        }
        over.store(true, Release);
    };
    let comes_and_goes = || {
        while !over.load(Acquire) {
            space.bind(between).expect("memory enough");
            assert!(space.marks().has(2, Group::live), "a later flush closes it while it lives");
            space.unbind(between.pages);
            assert!(space.drain());
        }
    };
    thread::scope(|scope| {
        scope.spawn(joins);
        scope.spawn(comes_and_goes);
    });
}

#[test]
fn a_page_that_goes_in_the_middle_of_a_move_of_the_boundary_above_it_leaves_no_border_counted() {
    let space = Space::new(2 * PIECE, false, None, |_, line| panic!("{line}")).expect("a process has room");
    let none = space.budget().mappings().used;
    let last = run_of(&space, (PIECE >> PAGE_SHIFT) - 1);
    space.bind(last).expect("memory enough");
    let moved = space.window.open_with(2 * PIECE, |piece| {
        space.open_piece(piece)?;
        space.unbind(last.pages);
        assert!(space.drain());
        Ok(())
    });
    assert_eq!((moved, space.budget().mappings().used), (Ok(()), none));
}
