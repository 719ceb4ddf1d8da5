//! `kmalloc` beside `vmalloc`: classes, blocks, and who is told what.

use crate::common::*;
use std::collections::BTreeMap;
use vmalloc::machine::Machine;
use vmalloc::units::Node;
use vmalloc_kernel::{Errno, Error, GfpFlags, Kern, ZERO_SIZE_PTR};

#[test]
fn kmalloc_gives_objects_of_the_next_size_aligned_to_their_powers_of_two() {
    let rig = quiet();
    let kernel = rig.kernel();
    let of = |size: usize| {
        let object = kernel.kmalloc(size, GFP).unwrap();
        let bytes = kernel.ksize(object.as_ptr()).unwrap();
        assert!(!bytes.is_power_of_two() || number(object).is_multiple_of(bytes.min(PAGE)), "{bytes} at {object:p}");
        kfree(&kernel, object).unwrap();
        bytes
    };
    let sizes = [1, 8, 9, 33, 65, 97, 130, 193, 1025, 2048, 2049, 4097, 5000, 100_000, 4 << 20];
    let bytes = [8, 8, 16, 64, 96, 128, 192, 256, 2048, 2048, 4096, 8192, 8192, 131_072, 4 << 20];
    // A block of many frames moves in one go: a call of the source, of O(orders).
    assert_eq!(rig.sim.unbounded(|| sizes.map(of)), bytes);
}

#[test]
fn objects_do_not_overlap_keep_their_bytes_and_all_frames_come_back() {
    let rig = rig(2);
    {
        let kernel = rig.kernel();
        let (mut live, mut rng) = (BTreeMap::new(), 12345u64);
        for step in 0..4000u64 {
            rng = rng.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let dice = rng >> 33;
            rig.sim.set_cpu((dice % 2) as u32);
            if dice % 5 < 3 {
                let size = 1 + (dice / 7) as usize % 3000;
                let object = kernel.kmalloc(size, GFP).unwrap();
                // SAFETY: the object has so many bytes, and is ours.
                unsafe { object.write_bytes(step as u8, size) };
                assert_eq!(live.insert(number(object), (object, size, step as u8)), None);
            } else if let Some((_, (object, size, byte))) = live.pop_first() {
                // SAFETY: as above.
                let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), size) };
                assert!(bytes.iter().all(|&b| b == byte), "an object of {size} bytes was written to");
                kfree(&kernel, object).unwrap();
            }
        }
        let mut end = 0;
        for (&at, &(object, _, _)) in &live {
            assert!(at >= end, "objects overlap");
            end = at + kernel.ksize(object.as_ptr()).unwrap();
        }
        live.values().for_each(|&(object, ..)| kfree(&kernel, object).unwrap());
    }
    rig.state();
}

#[test]
fn no_bytes_are_zero_size_ptr_which_kfree_takes_as_it_takes_null() {
    let rig = quiet();
    let kernel = rig.kernel();
    assert_eq!(kernel.kmalloc(0, GFP), Ok(ZERO_SIZE_PTR));
    assert_eq!(number(ZERO_SIZE_PTR), 16);
    assert_eq!((kfree(&kernel, ZERO_SIZE_PTR), kernel.ksize(ZERO_SIZE_PTR.as_ptr())), (Ok(()), Ok(0)));
    // SAFETY: nothing is there.
    assert_eq!((unsafe { kernel.kfree(std::ptr::null()) }, kernel.ksize(std::ptr::null())), (Ok(()), Ok(0)));
}

#[test]
fn what_kfree_is_given_by_mistake_is_told_apart_and_changes_nothing() {
    let rig = quiet();
    let kernel = rig.kernel();
    let object = kernel.kmalloc(96, GFP).unwrap();
    let (start, beside) = (number(object), kernel.kmalloc(96, GFP).unwrap());
    let area = kernel.vmalloc(PAGE).unwrap();
    let before = rig.state();
    // SAFETY: what is refused changes nothing.
    let free = |address: usize| unsafe { kernel.kfree(at(address)) };
    assert_eq!(free(start + 8), Err(Error::NotItsStart { at: start + 8, start }));
    assert_eq!(free(number(area)), Err(Error::NotSlab(number(area))));
    assert_eq!(free(0x1000), Err(Error::NotSlab(0x1000)));
    assert_eq!(rig.state(), before);
    kfree(&kernel, object).unwrap();
    assert_eq!(kfree(&kernel, object), Err(Error::DoubleFree(start)));
    assert_eq!(Error::DoubleFree(start).errno(), Errno::EINVAL);
    kfree(&kernel, beside).unwrap();
    vfree(&kernel, number(area)).unwrap();
}

#[test]
fn kzalloc_and_kcalloc_clear_and_overflow_is_refused() {
    let rig = quiet();
    let kernel = rig.kernel();
    for object in [kernel.kzalloc(500, GFP).unwrap(), kernel.kcalloc(10, 50, GFP).unwrap()] {
        // SAFETY: the object has 500 bytes.
        assert!(unsafe { std::slice::from_raw_parts(object.as_ptr(), 500) }.iter().all(|&byte| byte == 0));
        kfree(&kernel, object).unwrap();
    }
    let (count, size) = (usize::MAX / 2, 3);
    assert_eq!(kernel.kmalloc_array(count, size, GFP), Err(Error::Overflow { count, size }));
    assert_eq!(kernel.kcalloc(count, size, GFP), Err(Error::Overflow { count, size }));
    let limit = 4 << 20;
    assert_eq!(kernel.kmalloc(limit + 1, GFP), Err(Error::TooLarge { bytes: limit + 1, limit }));
}

#[test]
fn get_free_pages_gives_adjacent_frames_and_refuses_highmem() {
    let rig = quiet();
    let kernel = rig.kernel();
    let block = kernel.__get_free_pages(GFP | GfpFlags::ZERO, 3).unwrap();
    let first = kernel.virt_to_phys(number(block)).unwrap();
    for page in 0..8 {
        assert_eq!(kernel.virt_to_phys(number(block) + page * PAGE), Ok(first + (page * PAGE) as u64));
    }
    // SAFETY: what is refused changes nothing.
    assert_eq!(unsafe { kernel.free_pages(block.as_ptr(), 2) }, Err(Error::BadArgument(2)));
    // SAFETY: nobody uses it.
    assert_eq!(unsafe { kernel.free_pages(block.as_ptr(), 3) }, Ok(()));
    assert_eq!(kernel.__get_free_pages(USUAL, 0), Err(Error::BadArgument(2)));
    assert!(matches!(kernel.__get_free_pages(GFP, 11), Err(Error::TooLarge { .. })));
    let page = kernel.get_zeroed_page(GFP).unwrap();
    // SAFETY: a page of ours.
    assert!(unsafe { std::slice::from_raw_parts(page.as_ptr(), PAGE) }.iter().all(|&byte| byte == 0));
    kfree(&kernel, page).unwrap();
}

#[test]
fn the_slab_takes_highmem_off_with_a_warning() {
    let rig = quiet();
    let kernel = rig.kernel();
    kfree(&kernel, kernel.kmalloc(8, USUAL).unwrap()).unwrap();
    let line = "Unexpected gfp: 0x2 (__GFP_HIGHMEM). Fixing up to gfp: 0xcc0 (GFP_KERNEL)".to_owned();
    assert_eq!(kernel.host().said(), [(Kern::Warning, line)]);
}

#[test]
fn kmalloc_node_takes_frames_of_the_node() {
    let machine = vmalloc_sim::Sim::builder().cpus(2).node(32 << 20).node(32 << 20);
    let rig = boot(machine, vmalloc::Config::region(REGION));
    let kernel = rig.kernel();
    use vmalloc::machine::frames::Frames;
    let node_of = |object| {
        let phys = kernel.virt_to_phys(number(object)).unwrap();
        rig.sim.frames().node_of(vmalloc::units::Pfn::containing(phys))
    };
    for node in [0, 1] {
        for size in [64, 3 * PAGE] {
            let object = kernel.kmalloc_node(size, GFP, Some(Node(node))).unwrap();
            assert_eq!(node_of(object), Node(node));
            kfree(&kernel, object).unwrap();
        }
    }
    let none = kernel.kmalloc_node(3 * PAGE, GFP, Some(Node(9))).unwrap_err();
    assert_eq!(none.errno(), Errno::EINVAL);
}

#[test]
fn virt_to_phys_is_an_addition_for_kmalloc_and_no_answer_for_vmalloc() {
    let rig = quiet();
    let kernel = rig.kernel();
    let object = kernel.kmalloc(3 * PAGE, GFP).unwrap();
    let area = kernel.vmalloc(3 * PAGE).map(number).unwrap();
    let first = kernel.virt_to_phys(number(object)).unwrap();
    assert_eq!(kernel.virt_to_phys(number(object) + 2 * PAGE + 5), Ok(first + 2 * PAGE as u64 + 5));
    assert_eq!(kernel.vmalloc_to_page(number(object)), None, "of the slab the other function knows nothing");
    assert_eq!(kernel.virt_to_phys(area), Err(Error::NotSlab(area)));
    // Each page of an area is told by itself, and has the bytes that were stored there.
    for page in 0..3 {
        rig.stamp(area + page * PAGE, 1, 70 + page as u64);
        let frame = kernel.vmalloc_to_page(area + page * PAGE).unwrap();
        // SAFETY: the frame is the area's.
        assert_eq!(unsafe { rig.sim.virt(frame).cast::<u64>().read() }, 70 + page as u64);
    }
    kfree(&kernel, object).unwrap();
    vfree(&kernel, area).unwrap();
}

#[cfg(debug_assertions)]
#[test]
fn each_refusal_of_kmalloc_changes_nothing() {
    for size in [64, 2 * PAGE, 64 * PAGE] {
        let rig = quiet();
        let kernel = rig.kernel();
        kfree(&kernel, kernel.kmalloc(size, GFP).unwrap()).unwrap();
        // A class keeps one page: fill it up.
        let held: Vec<_> = (0..if size < PAGE { 64 } else { 0 }).map(|_| kernel.kmalloc(size, GFP).unwrap()).collect();
        let before = rig.state();
        for n in 1.. {
            rig.sim.faults().fail_from(n);
            let made = kernel.kmalloc(size, GFP);
            rig.sim.faults().fail_at(0);
            if let Ok(object) = made {
                assert!(n > 1, "{size}");
                kfree(&kernel, object).unwrap();
                break;
            }
            assert_eq!(made.unwrap_err().errno(), Errno::ENOMEM);
            assert_eq!(rig.state(), before, "refusal {n} of {size} bytes");
        }
        held.into_iter().for_each(|object| kfree(&kernel, object).unwrap());
    }
}

#[cfg(debug_assertions)]
#[test]
fn kvmalloc_asks_the_slab_first_and_a_page_or_less_never_falls_back() {
    let rig = quiet();
    let kernel = rig.kernel();
    let small = kernel.kvmalloc(PAGE, GFP).unwrap();
    assert!(!kernel.is_vmalloc_addr(small.as_ptr()));
    // The largest block is 4 MiB: what is larger is an area.
    let large = kernel.kvmalloc((4 << 20) + 1, GFP).unwrap();
    assert!(kernel.is_vmalloc_addr(large.as_ptr()));
    let calls = kernel.host().calls();
    let line = "  kmalloc_node(size=4194305, flags=GFP_KERNEL|__GFP_NOWARN|__GFP_NORETRY, node=-1)";
    assert!(calls.iter().any(|call| call == line), "quietly, and without trying hard: {calls:#?}");
    rig.reclaim(usize::MAX);
    rig.sim.faults().fail_from(1);
    kernel.host().calls();
    assert!(kernel.kvmalloc(PAGE, GFP).is_err());
    assert_eq!(kernel.host().names(), ["kvmalloc_node", "kmalloc_node"], "no area was tried");
    rig.sim.faults().fail_at(0);
    assert_eq!(kernel.host().said(), []);
    for block in [small, large] {
        // SAFETY: nobody uses it.
        assert_eq!(unsafe { kernel.kvfree(block.as_ptr()) }, Ok(()));
    }
}

#[test]
fn kvmalloc_tries_the_slab_hard_only_if_asked_to_and_refuses_more_than_int_max() {
    let rig = quiet();
    let kernel = rig.kernel();
    let block = kernel.kvmalloc(2 * PAGE, GFP | GfpFlags::RETRY_MAYFAIL).unwrap();
    let calls = kernel.host().calls();
    let flags = "flags=GFP_KERNEL|__GFP_NOWARN|__GFP_RETRY_MAYFAIL, node=-1)";
    assert!(calls[1].ends_with(flags), "{calls:?}");
    // SAFETY: nobody uses it.
    assert_eq!(unsafe { kernel.kvfree(block.as_ptr()) }, Ok(()));
    let bytes = i32::MAX as usize + 1;
    let refused = Err(Error::TooLarge { bytes, limit: i32::MAX as usize });
    assert_eq!([kernel.kvmalloc(bytes, GFP), kernel.kvmalloc(bytes, GFP)], [refused, refused]);
    assert_eq!(kernel.host().said().len(), 1, "warned of once");
    let (count, size) = (usize::MAX, 2);
    assert_eq!(kernel.kvmalloc_array(count, size, GFP), Err(Error::Overflow { count, size }));
}

#[test]
fn kvfree_goes_by_the_address_and_kvfree_sensitive_wipes_before() {
    let rig = quiet();
    let kernel = rig.kernel();
    let object = kernel.kvmalloc(100, GFP).unwrap();
    // SAFETY: the object is ours, and has so many bytes.
    unsafe { object.write_bytes(7, 100) };
    let beside = kernel.kvmalloc(100, GFP).unwrap();
    // SAFETY: nobody uses it.
    unsafe { kernel.kvfree_sensitive(object.as_ptr(), 100) }.unwrap();
    // SAFETY: its page is the slab's still, since another object is out.
    assert!(unsafe { std::slice::from_raw_parts(object.as_ptr(), 100) }.iter().all(|&byte| byte == 0));
    kfree(&kernel, beside).unwrap();

    let area = kernel.kvmalloc(5 << 20, GFP).unwrap();
    rig.stamp(number(area), 3, 99);
    let frame = kernel.vmalloc_to_page(number(area)).unwrap();
    // SAFETY: nobody uses it.
    unsafe { kernel.kvfree_sensitive(area.as_ptr(), 5 << 20) }.unwrap();
    // The frame waits for its flush: nobody has it yet.
    // SAFETY: it is out as long as it waits.
    assert_eq!(unsafe { rig.sim.virt(frame).cast::<u64>().read() }, 0);
    // SAFETY: nothing is there.
    assert_eq!(unsafe { kernel.kvfree_sensitive(std::ptr::null(), 5) }, Ok(()));
}

#[cfg(debug_assertions)]
#[test]
fn krealloc_stays_where_the_object_has_room_and_copies_where_not() {
    let rig = quiet();
    let kernel = rig.kernel();
    let object = kernel.kzalloc(20, GFP).unwrap();
    // SAFETY: the object has 20 bytes.
    unsafe { object.write_bytes(5, 20) };
    // SAFETY: Y4.
    let grow = |size| unsafe { kernel.krealloc(object.as_ptr(), size, GFP | GfpFlags::ZERO) };
    assert_eq!((grow(32), grow(10), grow(30)), (Ok(object), Ok(object), Ok(object)));
    let bytes = |at: std::ptr::NonNull<u8>, n: usize| {
        // SAFETY: the object has as many bytes.
        (0..n).map(|i| unsafe { at.add(i).read() }).collect::<Vec<u8>>()
    };
    assert_eq!(bytes(object, 30), [[5; 10].as_slice(), &[0; 20]].concat(), "what was given up came back clear");
    let moved = grow(5000).unwrap();
    assert_ne!(moved, object);
    assert_eq!(bytes(moved, 5000), [[5; 10].as_slice(), &[0; 4990]].concat());
    rig.sim.faults().fail_from(1);
    rig.reclaim(usize::MAX);
    // SAFETY: Y4.
    assert!(unsafe { kernel.krealloc(moved.as_ptr(), 1 << 20, GFP) }.is_err());
    rig.sim.faults().fail_at(0);
    assert_eq!(bytes(moved, 10), [5; 10], "a refusal leaves it as it was");
    // SAFETY: Y4.
    assert_eq!(unsafe { kernel.krealloc(moved.as_ptr(), 0, GFP) }, Ok(ZERO_SIZE_PTR), "no bytes free it");
}
