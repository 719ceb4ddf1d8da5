//! Stacks of a pool: what lies beside them, what is left in them, and what they cost the process.

mod common;

use common::*;
use std::ptr::NonNull;
use std::sync::Mutex;
use vmalloc::{What, units::PAGE_SIZE};
use vmalloc_window::{PoolError, StackPool};

const SIZES: [usize; 5] = [16 << 10, 20 << 10, 64 << 10, 1 << 20, 8 << 20];

fn pool(bytes: usize, most: usize) -> StackPool {
    StackPool::new(bytes, most).expect("a process has room")
}

/// Writes a word so far below the top.
fn write_below(top: NonNull<u8>, depth: usize, word: u64) {
    // SAFETY: it lies in the stack, which the caller has.
    unsafe { top.sub(depth).cast::<u64>().write(word) }
}

fn is_clear(bottom: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: as above.
    (0..bytes).step_by(8).all(|at| unsafe { bottom.add(at).cast::<u64>().read() } == 0)
}

#[test]
fn a_page_that_nobody_may_reach_lies_on_both_sides_of_each_stack() {
    for bytes in SIZES {
        let pool = pool(bytes, 20);
        let stacks: Vec<_> = (0..20).map(|_| pool.take().unwrap()).collect();
        for stack in &stacks {
            let (bottom, top) = (stack.bottom().addr().get(), stack.top().addr().get());
            assert_eq!(top - bottom, bytes);
            for beside in [bottom - PAGE_SIZE, bottom - 1, top, top + PAGE_SIZE - 1] {
                assert!(!is_readable(byte(beside)), "{bytes}: {beside:#x} beside {bottom:#x}..{top:#x}");
            }
            assert!(load_faults(byte(bottom - 8)) && load_faults(byte(top)));
            assert!(is_readable(byte(bottom)) && is_readable(byte(top - 1)));
            assert!(
                matches!(pool.vm().whatis(bottom - 8), What::Guard { above: Some(area), short: 8, .. } if area.start.0 == bottom)
            );
        }
    }
}

#[test]
fn a_stack_that_is_taken_is_clear_whoever_had_it_before() {
    for bytes in SIZES {
        let pool = pool(bytes, 4);
        let mut used = Vec::new();
        for depth in [8, 4096, 16 << 10, bytes] {
            let stack = pool.take().unwrap();
            assert!(is_clear(stack.bottom(), bytes), "{bytes}");
            used.push(stack.bottom());
            (8..=depth).step_by(8).for_each(|depth| write_below(stack.top(), depth, !0));
        }
        assert!(used.iter().all(|&bottom| bottom == used[0]), "the same one each time");
        // Several are kept, and the links between them are not seen.
        let some: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
        drop(some);
        let some: Vec<_> = (0..4).map(|_| pool.take().unwrap()).collect();
        assert!(some.iter().all(|stack| is_clear(stack.bottom(), bytes)), "{bytes}");
    }
}

#[test]
fn how_deep_a_stack_was_is_told_to_the_word() {
    for bytes in SIZES {
        let pool = pool(bytes, 4);
        let (one, other) = (pool.take().unwrap(), pool.take().unwrap());
        assert_eq!((one.depth(), pool.deepest()), (0, 0));
        for depth in [8, 160, 4096, 4104, 12_288, bytes - 8, bytes] {
            write_below(one.top(), depth, 1);
            assert_eq!((one.depth(), other.depth()), (depth, 0), "{bytes}");
        }
        write_below(other.top(), 4096, 1);
        drop(other);
        assert_eq!(pool.deepest(), 4096);
        drop(one);
        assert_eq!(pool.deepest(), bytes);
        assert_eq!(pool.take().unwrap().depth(), 0, "the next one's own");
    }
}

#[test]
fn asking_how_deep_a_stack_was_costs_no_memory() {
    let pool = pool(8 << 20, 4);
    let stack = pool.take().unwrap();
    write_below(stack.top(), 100 << 10, 1);
    let region = pool.vm().machine().region();
    let before = resident_in(region.clone());
    assert_eq!(stack.depth(), 100 << 10);
    assert_eq!(resident_in(region.clone()), before);
    // A kept stack has the memory of its top alone.
    (0..1 << 20).step_by(PAGE_SIZE).for_each(|depth| write_below(stack.top(), depth + 8, 1));
    drop(stack);
    assert!(resident_in(region) <= before + (16 << 10));
}

#[test]
fn a_hundred_thousand_stacks_are_as_many_mappings_as_one() {
    let pool = pool(16 << 10, 100_000);
    let region = pool.vm().machine().region();
    let mut stacks = vec![pool.take().unwrap()];
    let before = maps_in(region.clone());
    stacks.extend((1..100_000).map(|_| pool.take().unwrap()));
    assert_eq!(maps_in(region.clone()), before);
    drop(stacks);
    pool.vm().purge();
    assert_eq!((maps_in(region), pool.vm().check()), (before, Ok(())));
    assert_eq!(pool.vm().stats().areas, 1024, "so many are kept");
}

#[test]
fn sizes_that_no_stack_has_are_refused_with_their_number() {
    for bytes in [0, 1, 4096, (12 << 10), (8 << 20) + 1, usize::MAX] {
        let refused = StackPool::new(bytes, 10).unwrap_err();
        assert_eq!(refused, PoolError::Size { bytes });
        assert!(
            refused.to_string().starts_with(&format!("stacks of {bytes} bytes: from 16384 to 8388608")),
            "{refused}"
        );
    }
    assert_eq!(pool((12 << 10) + 1, 10).bytes(), 16 << 10);
    assert!(matches!(StackPool::new(8 << 20, usize::MAX), Err(PoolError::Build(_))));
}

#[test]
fn more_stacks_than_were_asked_for_are_refused_and_those_that_are_out_stay() {
    let pool = pool(8 << 20, 2);
    let mut stacks = Vec::new();
    let refused = loop {
        match pool.take() {
            Ok(stack) => stacks.push(stack),
            Err(why) => break why,
        }
    };
    assert!(stacks.len() >= 2, "{refused}");
    stacks.pop();
    assert!(pool.take().is_ok());
}

#[test]
fn threads_take_and_give_up_each_others_stacks() {
    let pool = pool(64 << 10, 1000);
    let out = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (pool, out) = (&pool, &out);
            scope.spawn(move || {
                for n in 0..3000u64 {
                    let stack = pool.take().unwrap();
                    assert_eq!(stack.depth(), 0);
                    let word = thread << 32 | n | 1;
                    write_below(stack.top(), 8 + (n as usize * 8) % (60 << 10), word);
                    let mut out = out.lock().unwrap();
                    out.push(stack);
                    let other = if out.len() > 100 { Some(out.swap_remove(n as usize % 100)) } else { None };
                    drop(out);
                    assert!(other.is_none_or(|stack| stack.depth() > 0));
                }
            });
        }
    });
    out.into_inner().unwrap().clear();
    pool.vm().purge();
    assert_eq!(pool.vm().check(), Ok(()));
}
