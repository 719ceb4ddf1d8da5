//! The subsystem in a process: real memory, real threads.

use std::ptr::{NonNull, with_exposed_provenance as at};
use std::slice;
use std::thread;
use vmalloc::Vmalloc;
use vmalloc::machine::Machine;
use vmalloc::machine::frames::Frames;
use vmalloc_hosted::{Hosted, builder, is_readable};
use vmalloc_kernel::stacks::Stacks;
use vmalloc_kernel::{Bare, GfpFlags, Kernel, RCU_HEAD, VmFlags};

const PAGE: usize = 4096;
const GFP: GfpFlags = GfpFlags::KERNEL;

fn instance() -> Vmalloc<Hosted> {
    builder().memory(64 << 20).region(1 << 30).cpus(4).build().expect("a process can be a machine")
}

/// Runs `act` on the subsystem; all frames come back.
fn with_kernel(act: impl FnOnce(&Kernel<'_, Hosted>)) {
    let vm = instance();
    let free = |vm: &Vmalloc<Hosted>| {
        vm.purge();
        vm.reclaim(usize::MAX);
        vm.check().expect("every rule holds");
        let stats = vm.stats();
        vm.machine().frames().free_now() + stats.table_frames + stats.bookkeeping_frames + stats.pooled_frames
    };
    let before = free(&vm);
    {
        let kernel = Kernel::new(&vm, Bare);
        act(&kernel);
    }
    assert_eq!((free(&vm), vm.stats().areas), (before, 0));
}

/// The bytes of an area or an object that the caller holds.
fn bytes<'a>(start: NonNull<u8>, len: usize) -> &'a mut [u8] {
    // SAFETY: memory of so many bytes, which the test alone uses.
    unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) }
}

fn vfree(kernel: &Kernel<'_, Hosted>, area: NonNull<u8>) {
    // SAFETY: Y1: nobody uses it any more.
    unsafe { kernel.vfree(area.as_ptr()) }.expect("an area");
}

#[test]
fn the_chains_of_all_ages_make_real_memory_with_a_guard() {
    with_kernel(|kernel| {
        let size = 5 * PAGE + 1;
        for made in
            [kernel.v2_6().vmalloc(size), kernel.v3_0().vmalloc(size), kernel.v4().vmalloc(size), kernel.vmalloc(size)]
        {
            let area = made.unwrap();
            bytes(area, 6 * PAGE).fill(7);
            assert!(bytes(area, 6 * PAGE).iter().all(|&byte| byte == 7));
            assert!(!is_readable(area.as_ptr().wrapping_add(6 * PAGE)));
            vfree(kernel, area);
        }
        let large = kernel.v2_6().vmalloc(600 * PAGE).unwrap();
        bytes(large, 600 * PAGE).fill(9);
        vfree(kernel, large);
    });
}

#[test]
fn parts_of_a_sparse_area_come_and_go() {
    with_kernel(|kernel| {
        let area = kernel.get_vm_area(32 * PAGE, VmFlags::SPARSE).unwrap();
        let frames: Vec<_> = (0..8).map(|_| kernel.alloc_page(GFP, None).unwrap()).collect();
        for round in 0..20u8 {
            let start = area.addr + usize::from(round % 4) * 8 * PAGE;
            // SAFETY: Y3: the frames are held for longer, and nobody else maps.
            unsafe { kernel.vm_area_map_pages(&area, start, start + 8 * PAGE, &frames) }.unwrap();
            let part = NonNull::new(at::<u8>(start).cast_mut()).unwrap();
            assert!(round == 0 || bytes(part, PAGE)[5] == round - 1, "the same frames elsewhere");
            bytes(part, 8 * PAGE).fill(round);
            // SAFETY: Y1, Y3: nobody uses them any more.
            unsafe { kernel.vm_area_unmap_pages(&area, start, start + 8 * PAGE) }.unwrap();
            assert!(!is_readable(part.as_ptr()));
        }
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.free_vm_area(&area) }.unwrap();
        // SAFETY: P3: they are the test's.
        frames.iter().for_each(|&frame| unsafe { kernel.vm().free_frame(frame) });
    });
}

#[test]
fn blocks_grow_by_moving_frames_and_keep_their_bytes() {
    with_kernel(|kernel| {
        let mut block = kernel.kvmalloc(100, GFP).unwrap();
        let mut size = 100;
        bytes(block, size).fill(1);
        for step in 2..17u8 {
            // SAFETY: Y4: only what is returned is used.
            block = unsafe { kernel.kvrealloc(block.as_ptr(), size * 2, GFP) }.unwrap();
            assert!(bytes(block, size)[size / 2..].iter().all(|&byte| byte == step - 1), "step {step}");
            bytes(block, size * 2)[size..].fill(step);
            size *= 2;
        }
        // SAFETY: Y1: nobody uses it.
        unsafe { kernel.kvfree(block.as_ptr()) }.unwrap();
        let area = kernel.vmalloc(3 * PAGE).unwrap();
        bytes(area, 3 * PAGE).fill(5);
        // SAFETY: Y4, as above.
        let grown = unsafe { kernel.vrealloc(area.as_ptr(), 300 * PAGE, GFP | GfpFlags::ZERO) }.unwrap().unwrap();
        let (old, new) = bytes(grown, 300 * PAGE).split_at(3 * PAGE);
        assert!(old.iter().all(|&byte| byte == 5) && new.iter().all(|&byte| byte == 0));
        vfree(kernel, grown);
    });
}

#[test]
fn an_area_that_shrinks_gives_real_pages_back_and_keeps_the_others() {
    with_kernel(|kernel| {
        let area = kernel.vmalloc(100 * PAGE).unwrap();
        bytes(area, 100 * PAGE).fill(9);
        // SAFETY: Y4: only what is returned is used.
        let same = unsafe { kernel.vrealloc(area.as_ptr(), 2 * PAGE - 1, GFP) }.unwrap().unwrap();
        assert_eq!(same, area);
        assert!(bytes(area, 2 * PAGE).iter().all(|&byte| byte == 9));
        // The pages may be reached until the next flush, as those of any free may.
        kernel.vm().purge();
        assert!(!is_readable(area.as_ptr().wrapping_add(2 * PAGE)));
        assert_eq!(kernel.vm().stats().pages, 2);
        vfree(kernel, area);
    });
}

#[test]
fn threads_share_the_slab_and_the_records() {
    with_kernel(|kernel| {
        thread::scope(|scope| {
            for thread in 0..4u8 {
                scope.spawn(move || work(kernel, thread));
            }
        });
    });
}

#[test]
fn threads_that_share_a_cpu_are_never_given_one_stack_together() {
    // One CPU for all: each thread finds what any other has given up.
    let vm = builder().memory(64 << 20).region(1 << 30).cpus(1).build().expect("a process can be a machine");
    let kernel = Kernel::new(&vm, Bare);
    let stacks = &Stacks::new(&kernel, 1);
    thread::scope(|scope| {
        for thread in 1..5u8 {
            scope.spawn(move || {
                for _ in 0..50_000 {
                    let stack = stacks.alloc_thread_stack(None).unwrap();
                    assert!(bytes(stack, PAGE).iter().all(|&byte| byte == 0), "cleared, and nobody else's");
                    bytes(stack, PAGE).fill(thread);
                    assert!(bytes(stack, PAGE).iter().all(|&byte| byte == thread));
                    // SAFETY: Y1: nobody uses it any more.
                    unsafe { stacks.free_thread_stack(stack) }.unwrap();
                }
            });
        }
    });
    assert!(stacks.flush() > 0, "some are kept");
    assert_eq!(vm.check(), Ok(()));
}

/// Makes, fills, checks and frees objects and areas.
fn work(kernel: &Kernel<'_, Hosted>, thread: u8) {
    let (mut objects, mut rng) = (Vec::new(), u64::from(thread) + 1);
    for _ in 0..3000 {
        rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let dice = (rng >> 33) as usize;
        match dice % 8 {
            0..4 => {
                let size = 1 + dice / 8 % 3000;
                let object = kernel.kmalloc(size, GFP).unwrap();
                bytes(object, size).fill(thread);
                objects.push((object, size));
            }
            4..7 => {
                let Some((object, size)) = objects.pop() else { continue };
                assert!(bytes(object, size).iter().all(|&byte| byte == thread));
                let at = object.as_ptr();
                // SAFETY: Y1: nobody uses it any more.
                unsafe {
                    match dice / 8 % 3 {
                        0 => kernel.kfree(at),
                        1 if size >= RCU_HEAD => kernel.kvfree_rcu(at, at.addr()),
                        _ => kernel.kvfree_rcu_mightsleep(at),
                    }
                }
                .unwrap();
            }
            _ => {
                let size = (1 + dice / 8 % 5) * PAGE;
                let made = if dice & 64 == 0 { kernel.v3_0().vmalloc(size) } else { kernel.vmalloc(size) };
                let area = made.unwrap();
                bytes(area, PAGE).fill(thread);
                // SAFETY: Y4: only what is returned is used.
                let area = unsafe { kernel.vrealloc(area.as_ptr(), (1 + dice / 64 % 9) * PAGE, GFP) }.unwrap().unwrap();
                thread::yield_now();
                assert!(bytes(area, PAGE).iter().all(|&byte| byte == thread));
                vfree(kernel, area);
            }
        }
    }
    // SAFETY: Y1: nobody uses them any more.
    objects.into_iter().for_each(|(object, _)| unsafe { kernel.kfree(object.as_ptr()) }.unwrap());
}
