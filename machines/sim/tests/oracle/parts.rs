//! Parts of reservations that are bound and unbound by hand, and areas that shrink and grow.

use super::hand::Hand;
use super::model::{Area, Page};
use super::unmake::pointer;
use vmalloc::machine::format::{Format, MemType, Prot};
use vmalloc::machine::{Context, Machine};
use vmalloc::units::{PAGE_SIZE, VirtAddr};
use vmalloc::{AllocError, Gfp, Kind, Req};

impl<F: Format, const ALIASES: bool> Hand<'_, F, ALIASES> {
    /// One of the things below. Nobody else ends the area meanwhile (P5), so interrupts do
    /// nothing.
    pub fn change_part(&self) {
        self.quietly(|| match self.below(9) {
            0 | 1 => self.fill_part(),
            2 | 3 => self.empty_part(),
            4 => self.shrink(),
            5 | 6 => self.protect(),
            _ => self.grow_any(),
        });
    }

    /// Some live area of a kind that is right.
    fn some_area(&self, is_right: impl Fn(Kind, usize) -> bool) -> Option<usize> {
        let model = self.model();
        let right: Vec<_> = model.areas().filter(|area| is_right(area.kind, area.pages)).collect();
        (!right.is_empty()).then(|| right[self.below(right.len())].start)
    }

    /// Binds frames of the driver's to pages of a reservation.
    fn fill_part(&self) {
        let Some(start) = self.some_area(|kind, _| kind == Kind::Reserved) else { return self.reserve() };
        let mut frames = self.some_held();
        let (pages, prot) = {
            let model = self.model();
            let area = model.area(start);
            (area.pages, area.prot)
        };
        frames.truncate(pages);
        if frames.is_empty() {
            return self.take_frame();
        }
        let first = self.below(pages - frames.len() + 1);
        let at = start + first * PAGE_SIZE;
        let page = |n: usize| self.model().page(at + n * PAGE_SIZE);
        if (0..frames.len()).any(|n| matches!(page(n), Page::Gone(_))) {
            // P5: what was unmapped of these pages is flushed first.
            self.flush_aliases();
        }
        let in_use = (0..frames.len()).find(|&n| matches!(page(n), Page::Bound { .. }));
        // SAFETY: P5: nobody else knows of the reservation now. P6: the driver holds the frames as
        // long as the model says that they are lent.
        let made = unsafe { self.vm.map_part(at, &frames, prot, MemType::WriteBack) };
        match made {
            Err(AllocError::NoAliases) if !ALIASES => return,
            Ok(()) if ALIASES => {
                assert_eq!(in_use, None, "refusal: a bound page of {start:#x} was bound again");
                self.model().bind(start, first, &frames);
                (0..frames.len()).for_each(|n| self.look(at + n * PAGE_SIZE));
                return self.write(at + self.below(frames.len()) * PAGE_SIZE);
            }
            Err(AllocError::InUse(odd)) => {
                assert_eq!(Some(odd.0), in_use.map(|n| at + n * PAGE_SIZE), "refusal: of a part of {start:#x}");
            }
            Err(AllocError::NoTables { .. } | AllocError::WouldWait(..)) => {}
            other => panic!("refusal: a part of {start:#x}: {other:?}"),
        }
        self.model().bound_in_vain(start, first, &frames);
    }

    /// Unbinds some pages of a reservation, bound or not. The driver gives some of their frames
    /// up at once, while CPUs still reach them.
    fn empty_part(&self) {
        let Some(start) = self.some_area(|kind, _| kind == Kind::Reserved) else { return };
        let (pages, bound) = {
            let model = self.model();
            let area = model.area(start);
            (area.pages, area.parts.keys().next().copied())
        };
        let first = bound.filter(|_| !self.one_in(4)).unwrap_or(self.below(pages));
        let end = first + 1 + self.below((pages - first).min(20));
        let at = start + first * PAGE_SIZE;
        // SAFETY: P5: nobody else knows of the reservation now.
        let cleared = unsafe { self.vm.unmap_part(at, end - first) }.expect("a part of a reservation");
        let frames = self.model().unbind(start, first..end);
        assert_eq!(cleared, frames.len(), "place: pages bound of {at:#x} and {} more", end - first - 1);
        self.take_back(&frames);
        [at, start + (end - 1) * PAGE_SIZE].into_iter().for_each(|page| self.look(page));
        self.write(at);
    }

    /// An area of memory gives its last pages back, and perhaps gets others there at once.
    fn shrink(&self) {
        let Some(start) = self.some_area(|kind, pages| owns(kind) && pages > 1) else { return };
        let pages = self.model().area(start).pages;
        let bytes = 1 + self.below((pages - 1) * PAGE_SIZE);
        // SAFETY: V1: what is used later is used to see it caught.
        let shrunk = unsafe { self.vm.shrink(pointer(start), bytes) };
        assert_eq!(shrunk, Ok(()), "free: {start:#x} does not shrink to {bytes} bytes");
        let left = bytes.div_ceil(PAGE_SIZE);
        // Pages that are their own frames stay: none could wait for a flush by itself.
        if ALIASES {
            self.model().shorten(start, bytes);
        }
        for page in [0, left - 1, left, pages - 1] {
            self.look(start + page * PAGE_SIZE);
        }
        self.write(start + left * PAGE_SIZE);
        if self.one_in(2) {
            self.grow(start);
        }
    }

    /// Some pages of an area get another protection, to which each CPU keeps when the call returns.
    fn protect(&self) {
        let Some(start) = self.some_area(|_, _| true) else { return };
        let area = self.model().area(start).clone();
        let first = self.below(area.pages);
        let end = first + 1 + self.below((area.pages - first).min(self.pick(&[1, 10, 300])));
        let page = |n: usize| start + n * PAGE_SIZE;
        let unmapped = (first..end).find(|&n| area.frame_of(page(n)).is_none()).map(page);
        let prot = self.pick(&[Prot::RO, Prot::RW, Prot::RX]);
        // Before it some CPU uses the old protection.
        [first, end - 1].into_iter().for_each(|n| self.write(page(n)));
        // SAFETY: V2: nobody else knows of the area now, and what is used later is used to see it
        // refused.
        match unsafe { self.vm.protect(page(first), end - first, prot) } {
            Ok(()) => {
                assert_eq!(unmapped, None, "refusal: pages of {start:#x} are mapped that are not");
                self.model().protect(start, first..end, prot);
            }
            Err(AllocError::NotMapped(at)) => assert_eq!(Some(at.0), unmapped, "refusal: of {start:#x}"),
            Err(AllocError::WrongContext(from)) => assert_ne!(from, Context::Task, "refusal: of {start:#x}"),
            Err(error) => panic!("refusal: pages {first}..{end} of {area:x?} become {prot:?}: {error:?}"),
        }
        self.sim().audit();
        for n in [first.saturating_sub(1), first, end - 1, end] {
            self.write(page(n));
            self.look(page(n));
        }
    }

    fn grow_any(&self) {
        if let Some(start) = self.some_area(|kind, _| owns(kind)) {
            self.grow(start);
        }
    }

    /// The area of memory gets more pages behind its last one: where it has been before, or
    /// farther. A step of it may be refused.
    fn grow(&self, start: usize) {
        let was = self.model().area(start).clone();
        let most = if self.one_in(2) { was.reach() - was.pages } else { 20 };
        let bytes = (was.pages + self.below(most + 1)) * PAGE_SIZE - self.pick(&[0, 1, 4095]);
        let bytes = bytes.max(was.bytes);
        let gfp = self.pick(&[Gfp::KERNEL, Gfp::KERNEL | Gfp::ZERO, Gfp::ATOMIC | Gfp::HIGHMEM]);
        let refused = self.one_in(4);
        if refused {
            self.refuse_soon();
        }
        // SAFETY: V1: nobody uses what is behind it but to see it caught.
        let grown = unsafe { self.vm.grow(pointer(start), Req::bytes(bytes).gfp(gfp).prot(was.prot)) };
        self.refuse(0);
        match grown {
            Ok(()) if ALIASES => self.grown(&was, bytes, gfp),
            Ok(()) => panic!("refusal: {was:x?} grew to {bytes} bytes, where pages are their own frames"),
            Err(AllocError::NoAddresses { pages, .. }) if !ALIASES && pages == bytes.div_ceil(PAGE_SIZE) => {}
            Err(error) => {
                let waits = !refused && self.sim().context() == Context::Task && gfp.contains(Gfp::WAIT);
                assert!(
                    may_be_refused(&was, bytes, waits, &error),
                    "refusal: {was:x?} grows to {bytes} bytes: {error:?}"
                );
                // What it had gained is gone, and is reached until then.
                self.flush_aliases();
            }
        }
        let was = was.pages - 1;
        (was..was + 3).for_each(|page| self.look(start + page * PAGE_SIZE));
    }

    /// `was` has grown to `bytes` bytes: its new pages are new memory, and each CPU reaches them.
    fn grown(&self, was: &Area, bytes: usize, gfp: Gfp) {
        let pages = bytes.div_ceil(PAGE_SIZE);
        let page = |n: usize| was.start + n * PAGE_SIZE;
        let frame = |n| self.vm.frame_at(page(n)).expect("G2: a page that an area gained is bound");
        let frames: Vec<_> = (was.pages..pages).map(frame).collect();
        for (n, &frame) in frames.iter().enumerate() {
            let at = page(was.pages + n);
            self.model().fresh(frame, &format!("page {} of {:#x}, which grew", was.pages + n, was.start));
            self.sim().assert_reached_only_at(frame, Some(VirtAddr(at)));
            let first =
                self.sim().load(self.awake(), VirtAddr(at + self.below(512) * 8)).expect("content: of a new page");
            assert!(first == 0 || !gfp.contains(Gfp::ZERO), "content: {at:#x} was asked for cleared");
        }
        self.model().lengthen(was.start, bytes, frames);
        for n in was.pages..pages {
            self.write(page(n));
            self.look(page(n));
        }
        self.look(page(pages));
    }
}

/// Whether an area of this kind can have more or fewer pages.
fn owns(kind: Kind) -> bool {
    matches!(kind, Kind::Vmalloc | Kind::Stack | Kind::VmapOwned)
}

/// Whether this may be the answer to a request for `bytes` bytes, from a caller who can wait or
/// cannot.
fn may_be_refused(was: &Area, bytes: usize, waits: bool, error: &AllocError) -> bool {
    let wanted = bytes.div_ceil(PAGE_SIZE);
    match *error {
        AllocError::NoAddresses { pages, widest } => pages == wanted && pages > was.reach().max(widest),
        AllocError::NoFrames { .. } | AllocError::NoTables { .. } => wanted > was.pages,
        AllocError::WouldWait(..) => !waits,
        _ => false,
    }
}
