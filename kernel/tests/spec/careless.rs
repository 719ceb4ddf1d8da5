//! Calls that no careful caller makes: each is refused, and harms nobody.

use crate::common::*;
use vmalloc::AllocError;
use vmalloc::frames::MAX_NODES;
use vmalloc::units::Node;
use vmalloc_kernel::{Error, Pgprot, RCU_HEAD, VmFlags};

#[test]
fn a_node_that_there_is_not_is_refused_whatever_the_slab_has() {
    let rig = quiet();
    let kernel = rig.kernel();
    let held = kernel.kmalloc(64, GFP).unwrap();
    for number in [1, MAX_NODES as u8, 3 * MAX_NODES as u8, u8::MAX] {
        let node = Node(number);
        let bad = Err(Error::Alloc(AllocError::BadNode { node, nodes: 1 }));
        assert_eq!(kernel.kmalloc_node(64, GFP, Some(node)), bad);
        assert_eq!(kernel.kmalloc_node(2 * PAGE, GFP, Some(node)), bad);
    }
    kfree(&kernel, held).unwrap();
}

#[test]
fn a_block_is_not_freed_with_an_order_that_is_none() {
    let rig = quiet();
    let kernel = rig.kernel();
    let block = kernel.__get_free_pages(GFP, 10).unwrap();
    for order in [9, 11, 64, u32::MAX] {
        // SAFETY: Y1: nobody uses it.
        assert_eq!(unsafe { kernel.free_pages(block.as_ptr(), order) }, Err(Error::BadArgument(order as usize)));
    }
    // SAFETY: Y1: nobody uses it.
    unsafe { kernel.free_pages(block.as_ptr(), 10) }.unwrap();
}

#[test]
fn what_kvfree_does_not_free_is_neither_written_to_nor_put_among_those_that_wait() {
    let rig = quiet();
    let kernel = rig.kernel();
    let held = frames(&rig, 2);
    // SAFETY: Y3: the frames are held.
    let mapped = unsafe { kernel.vmap(&held, VmFlags::MAP, Pgprot::KERNEL) }.map(number).unwrap();
    // SAFETY: Y3: the frames are held.
    let ram = unsafe { rig.map_ram(&held, None) }.map(number).unwrap();
    let device = kernel.ioremap(1 << 40, PAGE).map(number).unwrap();
    let empty = kernel.get_vm_area(PAGE, VmFlags::ALLOC).unwrap().addr;
    rig.stamp(mapped, 2, 5);
    for block in [mapped, ram, device, empty] {
        // SAFETY: Y1: nobody uses it.
        let with_head = unsafe { kernel.kvfree_rcu(at(block), block) };
        // SAFETY: Y1: nobody uses it.
        let sensitive = unsafe { kernel.kvfree_sensitive(at(block), 64) };
        assert!(
            with_head.is_err() && (sensitive.is_err() || block == empty),
            "{block:#x}: {with_head:?} {sensitive:?}"
        );
        if block != empty {
            // SAFETY: Y1: nobody uses it.
            let without = unsafe { kernel.kvfree_rcu_mightsleep(at(block)) };
            assert!(without.is_err(), "{block:#x}: {without:?}");
        }
    }
    rig.check_stamps(mapped, 2, 5);
    kernel.kvfree_rcu_barrier().unwrap();
    assert_eq!(kernel.host().said(), []);
    // SAFETY: Y1: nobody uses them.
    unsafe {
        kernel.vunmap(at(mapped)).unwrap();
        rig.unmap_ram(std::ptr::NonNull::new(at(ram).cast_mut()).unwrap(), 2).unwrap();
        kernel.iounmap(at(device)).unwrap();
        if let Some(area) = kernel.find_vm_area(empty) {
            kernel.free_vm_area(&area).unwrap();
        }
    }
    give_frames(&rig, &held);
}

#[test]
fn a_block_that_is_given_twice_is_refused_and_all_are_freed_in_their_order() {
    let rig = quiet();
    let kernel = rig.kernel();
    // SAFETY: Y1: nobody uses it.
    let give = |block: usize| unsafe { kernel.kvfree_rcu(at(block), block) };
    for small in [true, false] {
        let make = || if small { kernel.kmalloc(64, GFP) } else { kernel.vmalloc(PAGE) }.map(number).unwrap();
        let blocks = [make(), make(), make()];
        give(blocks[0]).unwrap();
        give(blocks[1]).unwrap();
        // A grace period has begun for the first of them.
        assert_eq!([0, 1, 0].map(|n| give(blocks[n])), [0, 1, 0].map(|n| Err(Error::DoubleFree(blocks[n]))));
        give(blocks[2]).unwrap();
        kernel.kvfree_rcu_barrier().unwrap();
        let lives = |block: usize| kernel.ksize(at(block)).is_ok() || kernel.find_vm_area(block).is_some();
        assert_eq!((blocks.map(lives), kernel.host().said()), ([false; 3], vec![]));
        // What was a head once is none.
        let again = make();
        assert!(!small || again == blocks[0], "the same memory");
        give(again).unwrap();
        kernel.kvfree_rcu_barrier().unwrap();
        assert!(!lives(again));
    }
}

#[test]
fn a_block_that_is_freed_while_it_waits_keeps_none_that_comes_later_from_being_freed() {
    let rig = quiet();
    let kernel = rig.kernel();
    // SAFETY: Y1: nobody uses it.
    let give = |block: usize| unsafe { kernel.kvfree_rcu(at(block), block) };
    for small in [true, false] {
        let make = || if small { kernel.kmalloc(64, GFP) } else { kernel.vmalloc(PAGE) }.map(number).unwrap();
        let gone = make();
        give(gone).unwrap();
        // SAFETY: a mistake.
        unsafe { kernel.kvfree(at(gone)) }.unwrap();
        rig.purge();
        let other = make();
        // Another one has its memory now, and something in it that looks like a list.
        let target = make();
        let words = [target, target, 0, 0].map(usize::to_ne_bytes);
        match small {
            // SAFETY: the object is the test's.
            true => unsafe { std::ptr::with_exposed_provenance_mut::<[[u8; 8]; 4]>(other).write(words) },
            false => rig.stamp(other, 1, target as u64),
        }
        kernel.kvfree_rcu_barrier().unwrap();
        let said = kernel.host().said();
        assert!(said.len() == 1 && said[0].1.contains("was written over"), "{said:?}");
        for _ in 0..3 {
            let later = make();
            give(later).unwrap();
            kernel.kvfree_rcu_barrier().unwrap();
            assert!(kernel.ksize(at(later)).is_err() && kernel.find_vm_area(later).is_none());
        }
        // SAFETY: Y1: nobody uses them.
        [other, target].iter().for_each(|&block| unsafe { kernel.kvfree(at(block)) }.unwrap());
        assert_eq!(kernel.host().said(), []);
    }
}

#[test]
fn clearing_an_area_that_is_watched_stops_before_its_redzone() {
    let rig = quiet();
    let kernel = rig.kernel().with_redzones();
    let area = kernel.vmalloc(5000).map(number).unwrap();
    // SAFETY: Y1: nobody uses it.
    let sensitive = |bytes| unsafe { kernel.kvfree_sensitive(at(area), bytes) };
    assert_eq!(sensitive(5001), Err(Error::TooLarge { bytes: 5001, limit: 5000 }));
    assert_eq!(kernel.check(), Ok(()));
    assert_eq!(sensitive(5000), Ok(()));
    let area = kernel.vmalloc(5000).map(number).unwrap();
    // SAFETY: Y1: nobody uses it.
    let head = |head| unsafe { kernel.kvfree_rcu(at(area), head) };
    assert_eq!(head(area + 5000), Err(Error::BadArgument(area + 5000)));
    head(area + 5000 - RCU_HEAD).unwrap();
    kernel.kvfree_rcu_barrier().unwrap();
    assert_eq!((kernel.find_vm_area(area), kernel.host().said()), (None, vec![]));
}

#[test]
fn an_overrun_of_a_block_that_waits_is_told_and_the_block_is_freed() {
    let rig = quiet();
    let kernel = rig.kernel().with_redzones();
    for with_head in [true, false] {
        let area = kernel.vmalloc(5000).map(number).unwrap();
        rig.sim.write_bytes(0, vmalloc::units::VirtAddr(area + 5001), &[1]).unwrap();
        // SAFETY: Y1: nobody uses it.
        let given = unsafe {
            if with_head { kernel.kvfree_rcu(at(area), area) } else { kernel.kvfree_rcu_mightsleep(at(area)) }
        };
        given.unwrap();
        kernel.kvfree_rcu_barrier().unwrap();
        assert_eq!(kernel.find_vm_area(area), None);
        let said = kernel.host().said();
        assert!(said.iter().any(|(_, line)| line.starts_with("BUG: vmalloc-out-of-bounds")), "{said:?}");
    }
}

#[test]
fn a_sensitive_block_with_an_overrun_is_refused_before_it_is_cleared() {
    let rig = quiet();
    let kernel = rig.kernel().with_redzones();
    let area = kernel.vmalloc(5000).map(number).unwrap();
    rig.stamp(area, 1, 3);
    rig.sim.write_bytes(0, vmalloc::units::VirtAddr(area + 5001), &[1]).unwrap();
    // SAFETY: Y1: nobody uses it.
    let sensitive = || unsafe { kernel.kvfree_sensitive(at(area), 5000) };
    assert_eq!(sensitive(), Err(Error::OutOfBounds { at: area + 5001, start: area, size: 5000 }));
    rig.check_stamps(area, 1, 3);
    assert_eq!(sensitive(), Ok(()));
}
