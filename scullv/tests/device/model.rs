//! A device too simple to be wrong: quanta by number, in a map.

use std::collections::{BTreeMap, BTreeSet};

const NODE: u64 = 512;
pub const MAX: u64 = i64::MAX as u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub order: u32,
    pub qset: u32,
}

impl Shape {
    pub fn quantum(self) -> u64 {
        4096 << self.order
    }
}

pub struct Model {
    pub shape: Shape,
    pub size: u64,
    pub quanta: BTreeMap<u64, Vec<u8>>,
    pub mappings: u32,
    pub budget: usize,
}

impl Model {
    pub fn new(shape: Shape, budget: usize) -> Model {
        Model { shape, size: 0, quanta: BTreeMap::new(), mappings: 0, budget }
    }

    /// Pages of quanta, sets and nodes, counted from nothing but which quanta
    /// there are.
    pub fn pages(&self) -> usize {
        self.pages_with(None)
    }

    fn pages_with(&self, one_more: Option<u64>) -> usize {
        let quanta: BTreeSet<u64> = self.quanta.keys().copied().chain(one_more).collect();
        let items: BTreeSet<u64> = quanta.iter().map(|quantum| quantum / u64::from(self.shape.qset)).collect();
        let set = self.shape.qset.div_ceil(512) as usize;
        let (mut nodes, mut level) = (0, items.clone());
        while level.last().is_some_and(|&last| last > 0) {
            level = level.iter().map(|item| item / NODE).collect();
            nodes += level.len();
        }
        (quanta.len() << self.shape.order) + items.len() * set + nodes
    }

    pub fn read(&self, position: u64, count: usize) -> Vec<u8> {
        let quantum = self.shape.quantum();
        let Some(bytes) = self.quanta.get(&(position / quantum)).filter(|_| position < self.size) else {
            return Vec::new();
        };
        let left = (self.size - position).min(quantum - position % quantum);
        bytes[(position % quantum) as usize..][..left.min(count as u64) as usize].to_vec()
    }

    /// How many bytes were written, or the error's number.
    pub fn write(&mut self, position: u64, bytes: &[u8]) -> Result<usize, i32> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if position >= MAX {
            return Err(27);
        }
        let quantum = self.shape.quantum();
        let number = position / quantum;
        if !self.quanta.contains_key(&number) && self.pages_with(Some(number)) > self.budget {
            return Err(28);
        }
        let count = (quantum - position % quantum).min(MAX - position).min(bytes.len() as u64);
        let into = self.quanta.entry(number).or_insert_with(|| vec![0; quantum as usize]);
        into[(position % quantum) as usize..][..count as usize].copy_from_slice(&bytes[..count as usize]);
        self.size = self.size.max(position + count);
        Ok(count as usize)
    }

    pub fn trim(&mut self, shape: Shape) -> Result<(), i32> {
        if self.mappings > 0 {
            return Err(16);
        }
        (self.shape, self.size) = (shape, 0);
        self.quanta.clear();
        Ok(())
    }

    pub fn resize(&mut self, size: u64) -> Result<(), i32> {
        if size > MAX {
            return Err(27);
        }
        if size < self.size && self.mappings > 0 {
            return Err(16);
        }
        let quantum = self.shape.quantum();
        if size < self.size {
            self.quanta.retain(|number, _| number * quantum < size);
            if let Some(last) = self.quanta.get_mut(&(size / quantum)) {
                last[(size % quantum) as usize..].fill(0);
            }
        }
        self.size = size;
        Ok(())
    }

    pub fn punch(&mut self, start: u64, bytes: u64) {
        let (quantum, end) = (self.shape.quantum(), start.saturating_add(bytes).min(self.size));
        let item = |number: u64| number / u64::from(self.shape.qset);
        for number in self.quanta.keys().copied().filter(|number| number * quantum < end).collect::<Vec<_>>() {
            let (first, next) = (number * quantum, (number + 1) * quantum);
            let alone = self.quanta.keys().filter(|&&other| item(other) == item(number)).count() == 1;
            if start <= first && next <= end && !alone && self.mappings == 0 {
                self.quanta.remove(&number);
            } else if start < next && start < end {
                let bytes = self.quanta.get_mut(&number).unwrap();
                bytes[(start.max(first) - first) as usize..(end.min(next) - first) as usize].fill(0);
            }
        }
    }

    pub fn reserve(&mut self, start: u64, bytes: u64, grows: bool) -> Result<(), i32> {
        let end = start.checked_add(bytes).filter(|&end| end <= MAX).ok_or(27)?;
        let (quantum, end) = (self.shape.quantum(), if grows { end } else { end.min(self.size) });
        let mut at = start;
        while at < end {
            let number = at / quantum;
            if !self.quanta.contains_key(&number) && self.pages_with(Some(number)) > self.budget {
                return Err(28);
            }
            self.quanta.entry(number).or_insert_with(|| vec![0; quantum as usize]);
            self.size = self.size.max(at + 1);
            at = (number + 1) * quantum;
        }
        self.size = self.size.max(if grows { end } else { 0 });
        Ok(())
    }

    pub fn next_data(&self, position: u64) -> Option<u64> {
        let quantum = self.shape.quantum();
        let next = self.quanta.range(position / quantum..).next().filter(|_| position < self.size)?.0;
        Some((next * quantum).max(position)).filter(|&at| at < self.size)
    }

    pub fn next_hole(&self, position: u64) -> Option<u64> {
        let quantum = self.shape.quantum();
        let hole = (position / quantum..).find(|number| !self.quanta.contains_key(number))?;
        (position < self.size).then_some((hole * quantum).max(position).min(self.size))
    }
}
