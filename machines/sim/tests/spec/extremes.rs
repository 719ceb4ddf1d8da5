//! Every number that a caller gives is checked: the largest are refused by name, or
//! mean what they say, and nothing is changed.

use crate::common::{PAGE, REGION, Rig, START, State, addr, at, boot, quiet};
use std::ops::Range;
use vmalloc::area::{Guard, RegionId};
use vmalloc::gfp::Gfp;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Format, MemType};
use vmalloc::machine::frames::Frames;
use vmalloc::table::X86_32;
use vmalloc::units::{CpuSet, Node, PageRange, Pfn, VirtAddr, pages_for};
use vmalloc::{AllocError, Config, FreeError, InitError, Placement, RegionFault, Req, Vmalloc, What};
use vmalloc_sim::{Builder, Rates, Sim};

/// The last pages that a range can have.
const TOP: usize = usize::MAX - (PAGE - 1);
/// Numbers at which sums overflow.
const LARGE: [usize; 6] = [usize::MAX, usize::MAX - 1, TOP, TOP - PAGE, 1 << 63, (1 << 63) - 1];

/// `init` refuses `config` with `error`, and changes nothing.
fn refuses<F: Format>(machine: Builder<F>, config: Config, error: InitError) {
    let sim = machine.build();
    let (root, free) = (sim.root(), sim.frames().free_now());
    let vm = Vmalloc::new(sim.clone());
    // SAFETY: N1, N2: the machine is new, and nobody else has the instance.
    assert_eq!(unsafe { vm.init(config.clone()) }, Err(error), "{config:?}");
    assert_eq!(sim.frames().free_now(), free);
    // SAFETY: M2: the root is a frame.
    let words = unsafe { std::slice::from_raw_parts(sim.virt(root).cast::<u64>().as_ptr(), 512) };
    assert!(words.iter().all(|&word| word == 0));
    drop(vm);
    sim.assert_no_leaks();
}

#[test]
fn regions_that_the_tables_cannot_name_are_refused_at_init() {
    let odd = |range: Range<usize>| InitError::NotCanonical { start: VirtAddr(range.start), end: VirtAddr(range.end) };
    let twin = START & ((1 << 48) - 1)..(START & ((1 << 48) - 1)) + (1 << 30);
    let edges = [(1 << 47) - (1 << 30)..(1 << 47) + (1 << 30), 0xffff_7fff_c000_0000..0xffff_8000_4000_0000];
    for range in edges.into_iter().chain([twin.clone(), 1 << 56..(1 << 56) + (1 << 30)]) {
        refuses(quiet(1), Config::region(range.clone()), odd(range.clone()));
        refuses(quiet(1), Config::region(REGION).add_region(range.clone()), odd(range));
    }
    let beyond = 1 << 56..(1 << 56) + (1 << 30);
    refuses(quiet(1).levels(5), Config::region(beyond.clone()), odd(beyond));
    boot(quiet(1).levels(5), Config::region(twin));

    let machine = || Sim::<X86_32>::builder().rates(Rates::NEVER);
    for range in [1 << 32..(1 << 32) + (1 << 24), (1 << 32) - (1 << 24)..(1 << 32) + PAGE, REGION] {
        refuses(machine(), Config::region(range.clone()).placement(Placement::Lowest), odd(range));
    }
    boot(machine(), Config::region((1 << 32) - (1 << 24)..1 << 32));
}

#[test]
fn regions_and_settings_that_no_machine_has_are_refused_at_init() {
    let odd = RegionFault::NotAligned;
    let faults =
        [(TOP - 3 * PAGE..TOP, RegionFault::NoGrain), (TOP..usize::MAX, odd), (TOP..TOP, RegionFault::NoGrain)];
    for (range, why) in faults.into_iter().chain([(usize::MAX - 1..usize::MAX, odd), (PAGE..usize::MAX, odd)]) {
        let bad = InitError::BadRegion { why, start: VirtAddr(range.start), end: VirtAddr(range.end) };
        refuses(quiet(1), Config::region(range), bad);
    }
    for frames in LARGE {
        let sim = quiet(1).build();
        let config = Config::region(REGION).atomic_reserve(frames);
        let error = Vmalloc::new(sim.clone());
        // SAFETY: N1, N2: as above.
        let refused = unsafe { error.init(config.clone()) };
        let Err(InitError::NoMemory { wanted, .. }) = refused else { panic!("{refused:?}") };
        assert!(wanted >= frames);
        refuses(quiet(1), config, InitError::NoMemory { wanted, got: None });
    }
}

#[test]
fn the_last_pages_of_the_address_space_serve() {
    let rig = boot(quiet(1), Config::region(TOP - 40 * PAGE..TOP).placement(Placement::Lowest));
    let area = rig.alloc(Req::pages(38)).expect("all but the first, and the guard");
    rig.stamp(area, 38, 4);
    assert_eq!(rig.whatis(usize::MAX), What::NotOurs);
    assert!(matches!(rig.whatis(TOP - 1), What::Guard { past: 4095, .. }), "{:?}", rig.whatis(TOP - 1));
    assert_eq!((rig.areas().count(), rig.check()), (1, Ok(())));
    rig.give(area).unwrap();
    let whole = rig.alloc(Req::pages(39).guard(Guard::None)).unwrap();
    assert!(matches!(rig.whatis(TOP - 1), What::Inside { .. }));
    rig.give(whole).unwrap();
    assert_eq!(rig.settled().reserved, 0);
}

#[test]
fn the_largest_settings_mean_without_a_limit() {
    for n in LARGE {
        let config = Config::region(REGION).batch_pages(n).waiting_pages(n).cached_pages(n);
        let rig = boot(quiet(2), config);
        for _ in 0..100 {
            let area = rig.alloc(Req::pages(50)).unwrap();
            rig.stamp(area, 50, 1);
            rig.give(area).unwrap();
        }
        (0..5).for_each(|_| _ = rig.tick());
        assert_eq!(rig.settled().waiting, 0);
    }
}

fn settled(rig: &Rig) -> (State, u64) {
    let state = rig.settled();
    (state, rig.stats().counts.allocs)
}

#[test]
fn every_call_refuses_the_largest_numbers_by_name_and_changes_nothing() {
    let config = || Config::region(REGION).add_region(START - (1 << 30)..START - (1 << 29));
    for config in [config(), config().placement(Placement::Lowest)] {
        let rig = boot(quiet(2), config);
        let area = rig.alloc(Req::pages(3)).unwrap();
        rig.reclaim(usize::MAX);
        let before = settled(&rig);
        for n in LARGE {
            requests(&rig, n);
            ranges(&rig, n);
            devices(&rig, n);
            addresses(&rig, n);
        }
        frames(&rig);
        assert_eq!(rig.unmap_pages(area, usize::MAX), Err(FreeError::WrongKind(vmalloc::Kind::Vmalloc)));
        assert_eq!(settled(&rig), before);
        rig.check_stamps(
            0,
            {
                rig.stamp(area, 3, 1);
                area
            },
            3,
            1,
        );
    }
}

/// Requests of `n` bytes, pages, alignment.
fn requests(rig: &Rig, n: usize) {
    let quietly = |req: Req| req.gfp(Gfp::KERNEL | Gfp::NOWARN);
    for req in [Req::bytes(n), Req::pages(n), Req::stack(n), Req::bytes(n).guard(Guard::None)].map(quietly) {
        assert!(matches!(rig.alloc(req.clone()), Err(AllocError::TooLarge { .. })), "{req:?}");
        assert!(rig.area(req.clone()).is_err());
        let reserved = rig.reserve(req.clone());
        assert!(matches!(reserved, Err(AllocError::TooLarge { .. } | AllocError::BadAlign(_))), "{reserved:?}");
    }
    let aligned = Req::pages(1).align(n);
    assert_eq!(rig.alloc(aligned.clone()), Err(AllocError::BadAlign(n)));
    assert_eq!(rig.reserve(aligned), Err(AllocError::BadAlign(n)));
    let nowhere = Req::pages(1).region(RegionId(u8::MAX));
    assert_eq!(
        rig.alloc(nowhere),
        Err(AllocError::NoRegion { region: RegionId(u8::MAX), regions: 2 }),
        "it has no addresses"
    );
}

/// Ranges that end or begin at `n`.
fn ranges(rig: &Rig, n: usize) {
    for (start, end) in [(0, n), (n, usize::MAX), (n, 0), (n, n), (START, n), (START - PAGE, n)] {
        let req = Req::pages(1).within(start..end);
        let told = AllocError::BadRange { start: VirtAddr(start), end: VirtAddr(end) };
        assert_eq!((rig.alloc(req.clone()), rig.reserve(req)), (Err(told), Err(told)));
    }
    let parts: [&[(usize, usize)]; 5] =
        [&[(0, n)], &[(n, 1)], &[(n & !0x3_ffff, n)], &[(0, PAGE), (n & !0x3_ffff, PAGE)], &[(0, n), (n, n)]];
    for parts in parts {
        assert!(rig.reserve_at_offsets(parts, PAGE, Req::bytes(0)).is_err(), "{parts:x?}");
    }
    assert_eq!(rig.reserve_at_offsets(&[(0, PAGE)], n, Req::bytes(0)), Err(AllocError::BadAlign(n)));
}

fn devices(rig: &Rig, n: usize) {
    for phys in [0, 1 << 40, u64::MAX, u64::MAX - 4095, 1 << 63] {
        let refused = rig.ioremap(phys, n, MemType::Uncached);
        assert!(
            matches!(refused, Err(AllocError::TooLarge { .. } | AllocError::BadFrame(_) | AllocError::IsRam(_))),
            "{phys:#x}: {refused:?}"
        );
    }
    for bytes in [1, PAGE, 3 * PAGE] {
        let refused = rig.ioremap(n as u64, bytes, MemType::Uncached);
        assert!(
            matches!(refused, Err(AllocError::TooLarge { .. } | AllocError::BadFrame(_) | AllocError::IsRam(_))),
            "{n:#x}: {refused:?}"
        );
    }
}

/// Looks at `n`, and frees of it.
fn addresses(rig: &Rig, n: usize) {
    assert_eq!((rig.whatis(n), rig.find(n), rig.frame_at(n), rig.hold_frame(n)), (What::NotOurs, None, None, None));
    assert!(rig.frame_ref(n).is_none());
    let none = Err(FreeError::NotAnArea(VirtAddr(n)));
    assert_eq!((rig.give(at(n)), rig.unmap(at(n))), (none, none));
    assert_eq!((rig.unmap_pages(at(n), n), rig.unmap_pages(at(n), 1)), (none, none));
    assert_eq!(rig.unmap_device(at(n)), Err(FreeError::NotAnArea(VirtAddr(n & !(PAGE - 1)))));
}

/// Frames that no entry can name.
fn frames(rig: &Rig) {
    for frame in [u64::MAX, u64::MAX - 1, 1 << 52, 1 << 40].map(Pfn) {
        let refused = Err(AllocError::BadFrame(frame));
        assert_eq!(rig.map(&[frame]), refused);
        // SAFETY: P2, P4: they are refused.
        assert_eq!(unsafe { rig.map_ram(&[frame, frame], None) }, refused);
        // SAFETY: as above.
        let owned = unsafe { rig.vmap_owned(&[frame], Req::bytes(usize::MAX)) };
        assert!(owned == refused || owned == Err(AllocError::NotOut(frame)), "{owned:?}");
    }
}

#[test]
fn units_are_counted_modulo_their_width() {
    let last = VirtAddr(TOP);
    assert_eq!((last.add_pages(1), VirtAddr(usize::MAX).page_start()), (VirtAddr(0), last));
    for n in LARGE {
        assert!(VirtAddr(TOP).add_pages(n).0.is_multiple_of(4096));
        let range = PageRange::new(VirtAddr(n).page_start(), n);
        assert!(format!("{range:?}").contains(&format!("{}", range.end())));
        assert_eq!((range.contains(VirtAddr(n)), range.addresses().start), (range.bytes() > 0, range.start.0));
        assert_eq!(Pfn(n as u64).offset(u64::MAX), Pfn(n as u64 - 1));
        assert_eq!(Pfn::containing(Pfn(n as u64).phys()).0, n as u64 & ((1 << 52) - 1));
        assert!(pages_for(n).is_none_or(|pages| pages <= 1 << 52));
        assert!(!CpuSet::EMPTY.contains(n as u32));
    }
    assert_eq!(
        (PageRange::new(last, 1).end(), PageRange::new(last, 1).contains(VirtAddr(usize::MAX))),
        (VirtAddr(0), true)
    );
    assert_eq!(Node(u8::MAX), Node(255));
}

#[test]
fn a_device_that_is_mapped_anew_each_time_and_never_unmapped_is_told_with_its_caller_until_no_gap_is_left() {
    let device = 0xf_0000_0010;
    for placement in [Placement::Classes, Placement::Lowest] {
        let rig = boot(quiet(1), Config::region(START..START + (4 << 20)).placement(placement));
        let mut maps = Vec::new();
        let error = loop {
            match rig.ioremap(device, 100, MemType::Uncached) {
                Ok(at) => maps.push(at),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, AllocError::NoAddresses { pages: 2, .. }), "{error}");
        let told = |line: &&str| line.contains("extremes.rs:") && line.contains(" phys=0x0000000f00000000 ioremap");
        assert_eq!(rig.listing().lines().filter(told).count(), maps.len());
        // The first page of a region is nobody's, and classes have no use for the rest of its unit.
        assert!(maps.len() >= 450, "{placement:?}: {} of 512", maps.len());
        for at in maps {
            assert_eq!(addr(at).0 % PAGE, 0x10);
            // SAFETY: V1: nobody uses it.
            unsafe { rig.iounmap(at) }.unwrap();
        }
        rig.purge();
        assert!(rig.ioremap(device, 3 << 20, MemType::Uncached).is_ok(), "{placement:?}: what was freed is one gap");
    }
}
