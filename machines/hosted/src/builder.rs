//! [`Builder`]: how much of what, and the error where it cannot be had.

use crate::machine::Hosted;
use crate::mirror::{Mirror, Plan};
use crate::shape::MAX_FRAMES;
use std::fmt;
use std::thread;
use vmalloc::frames::BadMap;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Config, InitError, Placement, Policy, Vmalloc};

const GIB: usize = 1 << 30;

/// More indices would be more magazines, not more speed.
const MOST_CPUS: u32 = 64;

/// An instance to be made. All has defaults: 1 GiB of memory, a region of
/// 64 GiB, an index a processor, the policy Keep.
#[derive(Clone, Debug)]
pub struct Builder {
    memory: usize,
    device: usize,
    regions: Vec<usize>,
    cpus: Option<u32>,
    vma_budget: Option<usize>,
    policy: Policy,
    placement: Placement,
}

/// Starts building an instance.
pub fn builder() -> Builder {
    Builder {
        memory: GIB,
        device: 0,
        regions: Vec::new(),
        cpus: None,
        vma_budget: None,
        policy: Policy::Keep,
        placement: Placement::default(),
    }
}

impl Builder {
    /// Bytes of RAM, rounded up to pages. Linux provides them when they are
    /// first used.
    pub fn memory(mut self, bytes: usize) -> Builder {
        self.memory = bytes;
        self
    }

    /// Bytes of a simulated device, beyond the RAM ([`Hosted::device`]).
    pub fn device(mut self, bytes: usize) -> Builder {
        self.device = bytes;
        self
    }

    /// A region of so many bytes of addresses, rounded up to pages; each call
    /// adds one.
    pub fn region(mut self, bytes: usize) -> Builder {
        self.regions.push(bytes);
        self
    }

    /// The number of CPU indices, 1 to 64.
    pub fn cpus(mut self, cpus: u32) -> Builder {
        self.cpus = Some(cpus.clamp(1, MOST_CPUS));
        self
    }

    /// The most VMAs that the instance may have, if that is less than the
    /// process may.
    pub fn vma_budget(mut self, vmas: usize) -> Builder {
        self.vma_budget = Some(vmas);
        self
    }

    /// When freed areas become unreachable: under Keep, unless told, when nobody
    /// has needed an area of that size for a while. Park is Unmap here.
    pub fn policy(mut self, policy: Policy) -> Builder {
        self.policy = policy;
        self
    }

    /// Where areas go.
    pub fn placement(mut self, placement: Placement) -> Builder {
        self.placement = placement;
        self
    }

    /// An instance that serves.
    ///
    /// # Errors
    /// What could not be had.
    pub fn build(&self) -> Result<Vmalloc<Hosted>, BuildError> {
        let vm = Vmalloc::new(self.machine()?);
        let mut regions = vm.machine().regions();
        let first = regions.next().unwrap_or_default();
        let config = Config::region(first).placement(self.placement).policy(self.policy);
        let config = regions.fold(config, Config::add_region);
        // SAFETY: N1: the regions are reservations of the machine's own. N2: nobody has the instance yet.
        unsafe { vm.init(config)? };
        Ok(vm)
    }

    /// The machine alone, for those who choose more of the [`Config`].
    ///
    /// # Errors
    /// What could not be had, and Linux's error number.
    pub fn machine(&self) -> Result<Hosted, BuildError> {
        let pages = |bytes: usize| bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(BuildError::TooLarge { bytes });
        let (ram, device) = (pages(self.memory)?, pages(self.device)?);
        if ram == 0 {
            return Err(BuildError::NoRoom { memory: ram });
        }
        let memory = ram.saturating_add(device);
        if memory / PAGE_SIZE > MAX_FRAMES {
            return Err(BuildError::TooLarge { bytes: memory });
        }
        let wanted = if self.regions.is_empty() { &[64 * GIB][..] } else { &self.regions };
        let regions: Vec<usize> = wanted.iter().map(|&bytes| pages(bytes.max(1))).collect::<Result<_, _>>()?;
        let plan = Plan { memory, regions: &regions, vma_budget: self.vma_budget };
        let mirror = Mirror::new(&plan).map_err(|(what, number)| BuildError::Refused { what, number })?;
        Hosted::new(mirror, ram, self.cpu_count())?.ok_or(BuildError::NoRoom { memory: ram })
    }

    fn cpu_count(&self) -> u32 {
        let processors = || thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.cpus.unwrap_or_else(|| processors().clamp(2, MOST_CPUS))
    }
}

/// Why a machine could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// A size that no process can have.
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
    },
    /// Linux refused.
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its error number.
        number: i32,
    },
    /// The frame allocator cannot take so much.
    BadMemory(BadMap),
    /// Not a frame for the root table.
    NoRoom {
        /// Bytes of RAM.
        memory: usize,
    },
    /// The instance refused.
    Init(InitError),
}

impl From<InitError> for BuildError {
    fn from(why: InitError) -> BuildError {
        BuildError::Init(why)
    }
}

impl From<BadMap> for BuildError {
    fn from(why: BadMap) -> BuildError {
        BuildError::BadMemory(why)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::TooLarge { bytes } => write!(f, "{bytes} bytes are more than a process can have"),
            BuildError::Refused { what, number } => {
                write!(f, "no {what}: {}", std::io::Error::from_raw_os_error(*number))
            }
            BuildError::BadMemory(why) => write!(f, "{why}"),
            BuildError::NoRoom { memory } => write!(f, "{memory} bytes of memory are too few"),
            BuildError::Init(why) => write!(f, "{why}"),
        }
    }
}

impl std::error::Error for BuildError {}
