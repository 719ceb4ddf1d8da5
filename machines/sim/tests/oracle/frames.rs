//! Frames by themselves, and areas over frames that are there already.

use super::hand::{Hand, spot};
use super::model::Area;
use super::setup::DEVICE;
use core::ptr::NonNull;
use vmalloc::area::Guard;
use vmalloc::machine::Machine;
use vmalloc::machine::format::{Format, MemType, Prot};
use vmalloc::units::{PAGE_SIZE, Pfn};
use vmalloc::{AllocError, Gfp, Kind, Req};

/// Holds that the driver has at most.
const HELD: usize = 48;

impl<F: Format, const ALIASES: bool> Hand<'_, F, ALIASES> {
    /// A frame for the driver alone.
    pub fn take_frame(&self) {
        if self.model().held.len() >= HELD {
            return self.let_go();
        }
        let gfp = self.pick(&[Gfp::KERNEL, Gfp::KERNEL | Gfp::HIGHMEM, Gfp::ATOMIC, Gfp::KERNEL | Gfp::ZERO]);
        let Ok(frame) = self.vm.alloc_frame(gfp, None) else { return };
        self.model().fresh(frame, "a caller");
        self.sim().assert_reached_only_at(frame, None);
        let stamp = self.model().stamp();
        if let Some(word) = self.word(frame) {
            // SAFETY: M2: the frame is held, and the word lies in it.
            unsafe {
                assert!(!gfp.contains(Gfp::ZERO) || word.read() == 0, "content: {frame:?} was asked for cleared");
                word.write(stamp);
            }
            self.model().frame(frame).word = Some(stamp);
        }
        self.model().hold(frame);
    }

    /// The word of a frame, by the direct mapping.
    fn word(&self, frame: Pfn) -> Option<*mut u64> {
        // SAFETY: M2: the spot lies in the frame.
        self.setup().is_direct(frame).then(|| unsafe { self.sim().virt(frame).add(spot(frame)).cast().as_ptr() })
    }

    /// Takes a hold on the frame behind a live page.
    pub fn hold_page(&self) {
        if self.model().held.len() >= HELD {
            return self.let_go();
        }
        let page = self.some_page();
        let expected = {
            let model = self.model();
            // A page that is its own frame has no descriptor to count holders in.
            let area = model.around(page).filter(|area| ALIASES && area.kind != Kind::Ioremap);
            area.and_then(|area| area.frame_of(page))
        };
        // An interrupt might free the area that is expected here.
        let held = self.quietly(|| self.vm.hold_frame(page + self.below(PAGE_SIZE)));
        assert_eq!(held, expected, "frame: of the page at {page:#x}");
        if let Some(frame) = held {
            self.model().hold(frame);
        }
    }

    /// Gives a hold up, when the frame still says what it should.
    pub fn let_go(&self) {
        let held = self.model().held.len();
        if held == 0 {
            return;
        }
        self.give_up(self.below(held));
    }

    /// Gives the `n`-th hold up, if the frame is lent to nobody.
    pub fn give_up(&self, n: usize) {
        if !self.model().may_give(n) {
            return;
        }
        let frame = self.model().take_held(n);
        let known = self.model().frame(frame).word;
        if let Some((word, known)) = self.word(frame).zip(known) {
            // SAFETY: M2: the frame is held, and the word lies in it.
            let found = unsafe { word.read() };
            assert_eq!(found, known, "content: {frame:?}, which is held, says {found:#x} and not {known:#x}");
        }
        // SAFETY: P3: the hold that the model gave up.
        unsafe { self.vm.free_frame(frame) };
    }

    /// Frames that the driver holds; some of them several times.
    pub fn some_held(&self) -> Vec<Pfn> {
        let model = self.model();
        match model.held.len() {
            0 => Vec::new(),
            held => (0..1 + self.below(7)).map(|_| model.held[self.below(held)]).collect(),
        }
    }

    /// Maps frames once more: `vmap`, `vm_map_ram`, or for good.
    pub fn map_frames(&self) {
        let frames = self.some_held();
        if frames.is_empty() {
            return self.take_frame();
        }
        let prot = self.pick(&[Prot::RW, Prot::RW, Prot::RO]);
        let (made, kind, prot) = match self.below(3) {
            // SAFETY: P1: the driver holds the frames.
            0 => (self.or_undone(|| unsafe { self.vm.vmap(&frames, Req::bytes(0).prot(prot)) }), Kind::Vmap, prot),
            1 => (self.map_ram(&frames), Kind::MapRam, Prot::RW),
            _ => return self.map_owned(),
        };
        self.mapped(made, frames, kind, prot);
    }

    fn map_ram(&self, frames: &[Pfn]) -> Result<NonNull<u8>, AllocError> {
        self.model().mapping = true;
        // SAFETY: P4: the driver holds the frames as long as the model says that they
        // are lent.
        let made = self.or_undone(|| unsafe { self.vm.map_ram(frames, None) });
        self.model().mapping = false;
        made
    }

    /// Gives some holds to an area.
    fn map_owned(&self) {
        let frames: Vec<_> = {
            let mut model = self.model();
            let count = model.held.len().min(1 + self.below(4));
            let first = model.held.len() - count;
            model.held.split_off(first)
        };
        // P4: the others are the driver's to lend.
        if frames.iter().any(|&frame| self.model().frame(frame).lent > 0) {
            return self.model().held.extend(&frames);
        }
        // SAFETY: P2: one hold on each is given.
        let made = self.or_undone(|| unsafe { self.vm.vmap_owned(&frames, Req::bytes(0)) });
        if let Err(error) = made {
            assert!(ALIASES || error == AllocError::NoAliases, "refusal: {frames:?} for good: {error:?}");
            self.model().held.extend(&frames);
            return;
        }
        frames.iter().for_each(|&frame| self.model().frame(frame).holders -= 1);
        self.mapped(made, frames, Kind::VmapOwned, Prot::RW);
    }

    fn mapped(&self, made: Result<NonNull<u8>, AllocError>, frames: Vec<Pfn>, kind: Kind, prot: Prot) {
        let at = match made {
            Ok(at) if ALIASES => at.addr().get(),
            Err(AllocError::NoAliases) if !ALIASES => return,
            Err(AllocError::NoAddresses { .. } | AllocError::NoTables { .. } | AllocError::WouldWait(..)) => return,
            other => panic!("refusal: {kind:?} of {frames:?}: {other:?}"),
        };
        let mut area = Area::new(at, frames.len() * PAGE_SIZE, kind);
        area.guard = if kind == Kind::MapRam { Guard::None } else { Guard::After };
        area.prot = prot;
        // An interrupt would meet an area that the model does not know yet.
        let frame_at = |n| self.quietly(|| self.vm.frame_at(at + n * PAGE_SIZE));
        let found: Vec<_> = (0..frames.len()).map(frame_at).collect();
        assert!(found.iter().copied().eq(frames.iter().copied().map(Some)), "frame: {found:?} for {frames:?}");
        area.frames = frames;
        self.look_then_enter(area);
    }

    /// The pages of an alias say what the frames said before.
    fn look_then_enter(&self, area: Area) {
        let (start, pages) = (area.start, area.pages);
        let words: Vec<_> = area.frames.iter().map(|&frame| self.model().frame(frame).word).collect();
        for (n, word) in words.iter().enumerate() {
            let at = vmalloc::units::VirtAddr(start + n * PAGE_SIZE + spot(area.frames[n]));
            let found = self.sim().load(self.awake(), at);
            assert!(
                found.is_ok_and(|found| word.is_none_or(|word| word == found)),
                "content: the alias {at}: {found:x?}"
            );
        }
        self.enter(area, &self.usable(0), PAGE_SIZE);
        self.look(start + self.below(pages) * PAGE_SIZE);
    }

    /// Maps a part of the device.
    pub fn map_device(&self) {
        let first = self.below(DEVICE.frames as usize - 8);
        let (offset, bytes) = (self.below(PAGE_SIZE), 1 + self.below(7 * PAGE_SIZE));
        let phys = DEVICE.first.offset(first as u64).phys() + offset as u64;
        match self.vm.ioremap(phys, bytes, MemType::UncachedMinus) {
            Err(AllocError::NoAliases) if !ALIASES => {}
            Ok(at) if ALIASES => {
                let at = at.addr().get();
                assert_eq!(at % PAGE_SIZE, offset, "place: {phys:#x} is at {at:#x}");
                let mut area = Area::new(at - offset, bytes + offset, Kind::Ioremap);
                area.frames = (0..area.pages).map(|n| DEVICE.first.offset((first + n) as u64)).collect();
                self.look_then_enter(area);
            }
            Err(AllocError::NoAddresses { .. } | AllocError::NoTables { .. } | AllocError::WouldWait(..)) => {}
            other => panic!("refusal: ioremap of {bytes} bytes at {phys:#x}: {other:?}"),
        }
    }
}
