//! Random steps on a device and on the model, side by side: reads, writes,
//! seeks, cuts, trims, mappings, faults, commands; near and far.

use crate::common::*;
use crate::model::{MAX, Model, Shape};
use vmalloc_scullv::{Access, Command, File, How, Mapping, NoPage, Output, Parameters, What};

const BUDGET: usize = 70;

struct Pair<'s, 'v> {
    vm: &'v Vm,
    scullv: &'s Scullv<'v>,
    file: File<'s, 'v, vmalloc_hosted::Hosted, parking_lot::RawRwLock>,
    mappings: Vec<Mapping<'s, 'v, vmalloc_hosted::Hosted, parking_lot::RawRwLock>>,
    model: Model,
    /// What a trim takes over.
    next: Shape,
    rng: Rng,
    refused: [u64; 64],
}

#[test]
fn a_device_does_what_the_model_does() {
    let steps: u64 = std::env::var("SCULLV_OPS").map_or(20_000, |text| text.parse().unwrap());
    let vm = vm(32);
    let scullv = Scullv::new(&vm, Parameters { devices: 1, order: 1, qset: 3, budget: BUDGET * PAGE }).unwrap();
    let shape = Shape { order: 1, qset: 3 };
    let file = scullv.open(0, Access::ReadWrite).unwrap();
    let model = Model::new(shape, BUDGET);
    let (mappings, rng) = (Vec::new(), Rng::new(7));
    let mut pair = Pair { vm: &vm, scullv: &scullv, file, mappings, model, next: shape, rng, refused: [0; 64] };
    for step in 0..steps {
        pair.step();
        if step % 16 == 0 {
            pair.check();
        }
    }
    pair.check();
    let met: Vec<usize> = (0..64).filter(|&number| pair.refused[number] > 0).collect();
    println!("{steps} steps; refusals met: {met:?}");
    assert!(steps < 5000 || [16, 22, 27, 28].iter().all(|number| met.contains(number)), "{met:?}");
    drop(pair);
    drop(scullv);
    assert_eq!((vm.areas().count(), vm.check()), (0, Ok(())));
}

impl Pair<'_, '_> {
    fn step(&mut self) {
        match self.rng.below(100) {
            0..=34 => self.write(),
            35..=64 => self.read(),
            65..=76 => self.fault(),
            77..=81 => self.seek(),
            82..=85 => self.resize(),
            86 => self.trim(),
            87..=89 => self.map(),
            90..=92 => self.unmap(),
            93..=94 => self.command(),
            95 => self.punch(),
            96 => self.reserve(),
            _ => self.find(),
        }
    }

    /// Mostly near, often at a quantum's edge, sometimes far.
    fn position(&mut self) -> u64 {
        let quantum = self.model.shape.quantum();
        let near = self.rng.below(24 * quantum);
        match self.rng.below(16) {
            0..=7 => near,
            8..=10 => near / quantum * quantum,
            11 => (near / quantum * quantum).saturating_sub(1),
            12 => (1 << 40) + near,
            13 => FAR + near,
            14 => MAX - near / 16,
            _ => self.model.size.saturating_add_signed(self.rng.below(3) as i64 - 1),
        }
    }

    fn count(&mut self) -> usize {
        let most = [1, 100, 5000, 40_000][self.rng.below(4) as usize];
        self.rng.below(most + 1) as usize
    }

    fn told(&mut self, number: Result<u64, i32>) -> Result<u64, i32> {
        if let Err(number) = number {
            self.refused[number as usize] += 1;
        }
        number
    }

    fn write(&mut self) {
        let (position, count) = (self.position(), self.count());
        let bytes = self.rng.bytes(count);
        let ours = write(self.file.device(), position, &bytes).map(|n| n as u64).map_err(|e| e.errno());
        let theirs = self.model.write(position, &bytes).map(|n| n as u64);
        assert_eq!(self.told(ours), theirs, "write {count} at {position:#x}");
    }

    fn read(&mut self) {
        let (position, count) = (self.position(), self.count());
        let ours = read(self.file.device(), position, count);
        assert!(ours == self.model.read(position, count), "read {count} at {position:#x}");
    }

    /// Seeks, and reads or writes there, through the file.
    fn seek(&mut self) {
        let (to, size) = (self.position(), self.model.size);
        let from_end = to as i128 - i128::from(size);
        let sought = match self.rng.below(3) {
            0 if i64::try_from(from_end).is_ok() => self.file.seek(from_end as i64, 2),
            1 => self.file.seek(0, 0).and_then(|_| self.file.seek(to as i64, 1)),
            _ => self.file.seek(to as i64, 0),
        };
        let ours = self.told(sought.map_err(|e| e.errno()));
        assert_eq!(ours, if to > MAX { Err(22) } else { Ok(to) });
        if ours.is_err() {
            return;
        }
        let mut bytes = vec![0; self.count()];
        let count = bytes.len();
        let done = self.file.read(&mut Output(&mut bytes), 0, count).unwrap();
        assert!(bytes[..done] == self.model.read(to, count));
        assert_eq!(self.file.seek(0, 1), Ok(to + done as u64));
    }

    fn resize(&mut self) {
        let size = match self.rng.below(8) {
            0 => u64::MAX - self.rng.below(9),
            _ => self.position(),
        };
        let ours = self.file.truncate(size).map(|()| 0).map_err(|e| e.errno());
        let theirs = if size == 0 { self.model.trim(self.next) } else { self.model.resize(size) };
        assert_eq!(self.told(ours), theirs.map(|()| 0), "resize to {size:#x}");
    }

    fn punch(&mut self) {
        let (start, bytes) = (self.position(), self.position());
        self.file.device().punch(start, bytes);
        self.model.punch(start, bytes);
    }

    fn reserve(&mut self) {
        let (start, bytes, grows) = (self.position(), self.count() as u64, self.rng.below(2) == 0);
        let ours = self.file.device().reserve(start, bytes, grows).map(|()| 0).map_err(|e| e.errno());
        let theirs = self.model.reserve(start, bytes, grows).map(|()| 0);
        assert_eq!(self.told(ours), theirs, "reserve {bytes} at {start:#x}, grows: {grows}");
    }

    fn trim(&mut self) {
        let ours = self.scullv.open(0, Access::WriteOnly).map(|_| 0).map_err(|e| e.errno());
        let theirs = self.model.trim(self.next).map(|()| 0);
        assert_eq!(self.told(ours), theirs);
    }

    fn map(&mut self) {
        if self.mappings.len() < 3 {
            let first = self.mappings.first().cloned();
            self.mappings.push(first.unwrap_or_else(|| self.file.device().map()));
            self.model.mappings += 1;
        }
    }

    fn unmap(&mut self) {
        if self.mappings.pop().is_some() {
            self.model.mappings -= 1;
        }
        // A device that is mapped for ever is never trimmed.
        if self.rng.below(2) == 0 {
            self.mappings.clear();
            self.model.mappings = 0;
        }
    }

    /// Faults a page in, compares it, and sometimes writes through it.
    fn fault(&mut self) {
        let position = self.position();
        let page = position / 4096 * 4096;
        let ours = match self.mappings.first() {
            Some(mapping) => mapping.fault(position),
            None => self.file.device().map().fault(position),
        };
        let quantum = self.model.shape.quantum();
        let theirs = self.model.quanta.get_mut(&(page / quantum));
        let (frame, bytes) = match (ours, theirs) {
            (Err(NoPage::BeyondSize), _) => return assert!(page >= self.model.size, "{position:#x}"),
            (Err(NoPage::Hole), theirs) => return assert!(page < self.model.size && theirs.is_none(), "{position:#x}"),
            (Ok(frame), Some(bytes)) => (frame, &mut bytes[(page % quantum) as usize..][..PAGE]),
            (ours, _) => panic!("{:?} at {position:#x}", ours.map(|frame| frame.frame())),
        };
        assert!(load(self.vm, frame.frame()) == bytes, "{position:#x}");
        let there = (self.model.size - page).min(PAGE as u64);
        if self.rng.below(2) == 0 {
            let at = self.rng.below(there) as usize;
            store(self.vm, frame.frame(), at, &[0x5a]);
            bytes[at] = 0x5a;
        }
    }

    /// A command with a value in or out of range, in any of its ways, or with
    /// a bad pointer.
    fn command(&mut self) {
        let (what, small) = if self.rng.below(2) == 0 { (What::Order, 3) } else { (What::Qset, 6) };
        let how = [How::Set, How::Tell, How::Get, How::Query, How::Exchange, How::Shift][self.rng.below(6) as usize];
        let value = match self.rng.below(8) {
            0 => -1,
            1 => i32::MAX,
            _ => self.rng.below(small) as i32 + i32::from(what == What::Qset),
        };
        let old = if what == What::Order { self.next.order } else { self.next.qset } as i32;
        let fits = if what == What::Order { (0..=18).contains(&value) } else { (1..=1 << 20).contains(&value) };
        let mut memory = value.to_ne_bytes();
        let (number, pointer) = (Command::Of(what, how).number(), matches!(how, How::Set | How::Get | How::Exchange));
        let bad = pointer && self.rng.below(8) == 0;
        let argument = if bad {
            1
        } else if pointer {
            0
        } else {
            value as usize
        };
        let ours = self.file.ioctl(number, argument, &mut Output(&mut memory)).map(|n| n as u64).map_err(|e| e.errno());
        let sets = !matches!(how, How::Get | How::Query);
        let theirs = match how {
            _ if bad => Err(14),
            _ if sets && !fits => Err(22),
            How::Query | How::Shift => Ok(old as u64),
            _ => Ok(0),
        };
        assert_eq!(self.told(ours), theirs, "{what:?} {how:?} {value}");
        let tells = theirs.is_ok() && matches!(how, How::Get | How::Exchange);
        assert_eq!(i32::from_ne_bytes(memory), if tells { old } else { value });
        match what {
            _ if theirs.is_err() || !sets => {}
            What::Order => self.next.order = value as u32,
            What::Qset => self.next.qset = value as u32,
        }
        let settings = self.scullv.settings().get();
        assert_eq!((settings.order(), settings.qset()), (self.next.order, self.next.qset));
    }

    fn find(&mut self) {
        let position = self.position();
        let device = self.file.device();
        assert_eq!(device.next_data(position), self.model.next_data(position), "{position:#x}");
        assert_eq!(device.next_hole(position), self.model.next_hole(position), "{position:#x}");
    }

    fn check(&mut self) {
        let (device, model) = (self.file.device(), &self.model);
        let status = device.status();
        assert_eq!(device.check(), Ok(()));
        assert_eq!((status.size, status.mappings, status.pages), (model.size, model.mappings, model.pages()));
        assert_eq!((status.geometry.order(), status.geometry.qset()), (model.shape.order, model.shape.qset));
    }
}
