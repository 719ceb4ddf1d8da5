//! [`Builder`]: how much of what, and the error where it cannot be had.

use crate::budget::{self, MOST};
use crate::machine::Hosted;
use crate::mirror::{Mirror, Plan};
use crate::os;
use crate::shape::MAX_FRAMES;
use std::fmt;
use std::thread;
use vmalloc::frames::BadMap;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{Config, InitError, Placement, Policy, Vmalloc};

const GIB: usize = 1 << 30;

/// More indices would be more magazines, not more speed.
const MOST_CPUS: u32 = 64;

/// An instance to be made. All has defaults: 1 GiB of memory, or what the computer has, a region of
/// 64 GiB, an index a processor, the policy Keep.
#[derive(Clone, Debug)]
pub struct Builder {
    memory: Option<usize>,
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
        memory: None,
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
    /// first used. More than the computer has, with its swap, are refused: a process that
    /// used them would be killed, where an allocation should fail. Addresses have no such
    /// bound ([`Builder::region`]), and a device has none ([`Builder::device`]): it is sparse.
    pub fn memory(mut self, bytes: usize) -> Builder {
        self.memory = Some(bytes);
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
        let has = os::memory_and_swap().map_or(isize::MAX as usize, |bytes| bytes as usize);
        let (ram, device) = (pages(self.memory.unwrap_or(GIB.min(has)))?, pages(self.device)?);
        if ram == 0 {
            return Err(BuildError::NoRoom { memory: ram });
        }
        let memory = ram.saturating_add(device);
        if memory / PAGE_SIZE > MAX_FRAMES {
            return Err(BuildError::TooLarge { bytes: memory });
        }
        if ram > has.next_multiple_of(PAGE_SIZE) {
            return Err(BuildError::BeyondMemory { bytes: ram, has });
        }
        let wanted = if self.regions.is_empty() { &[64 * GIB][..] } else { &self.regions };
        let regions: Vec<usize> = wanted.iter().map(|&bytes| pages(bytes.max(1))).collect::<Result<_, _>>()?;
        let plan = Plan { memory, regions: &regions, vma_budget: self.vma_budget };
        Hosted::new(Mirror::new(&plan)?, ram, self.cpu_count())
    }

    fn cpu_count(&self) -> u32 {
        let processors = || thread::available_parallelism().map_or(1, |n| n.get() as u32);
        self.cpus.unwrap_or_else(|| processors().clamp(2, MOST_CPUS))
    }
}

/// So many bytes in whole pages.
fn pages(bytes: usize) -> Result<usize, BuildError> {
    bytes.checked_next_multiple_of(PAGE_SIZE).ok_or(BuildError::TooLarge { bytes })
}

/// Why a machine could not be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// A size that no process can have.
    TooLarge {
        /// Bytes asked for.
        bytes: usize,
    },
    /// More memory than the computer has.
    BeyondMemory {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes of RAM and swap.
        has: usize,
    },
    /// A file of this size is more than the process may make (RLIMIT_FSIZE).
    FileLimit {
        /// Bytes of RAM and device.
        bytes: usize,
        /// Bytes that a file may have.
        limit: u64,
    },
    /// The process has no mapping left (`vm.max_map_count`).
    Mappings {
        /// What was to be mapped.
        what: &'static str,
        /// Mappings that the process has.
        process: usize,
        /// The most that Linux lets it have.
        limit: usize,
    },
    /// The process may have no more addresses (RLIMIT_AS).
    Addresses {
        /// What was to be mapped.
        what: &'static str,
        /// Bytes of addresses that it may have.
        limit: u64,
    },
    /// The process's own heap has no room for records (RLIMIT_DATA, RLIMIT_AS).
    NoRecords {
        /// Of what.
        of: &'static str,
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

impl BuildError {
    /// Linux refused `what` with `number`.
    pub(crate) fn of(what: &'static str, number: i32) -> BuildError {
        let (process, limit) = (budget::count_vmas(), budget::limit());
        match os::address_limit() {
            _ if number != libc::ENOMEM => BuildError::Refused { what, number },
            _ if process + MOST >= limit => BuildError::Mappings { what, process, limit },
            Some(limit) => BuildError::Addresses { what, limit },
            None => BuildError::Refused { what, number },
        }
    }
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
            BuildError::BeyondMemory { bytes, has } => {
                write!(f, "{bytes} bytes of memory, but this computer has {has} with its swap: ask for fewer")
            }
            BuildError::FileLimit { bytes, limit } => {
                write!(f, "a memory file of {bytes} bytes, but files may have {limit} (ulimit -f)")
            }
            BuildError::Mappings { what, process, limit } => {
                write!(f, "no {what}: the process has {process} of the {limit} mappings of vm.max_map_count")
            }
            BuildError::Addresses { what, limit } => {
                write!(f, "no {what}: the process may have {limit} bytes of addresses (ulimit -v)")
            }
            BuildError::NoRecords { of } => {
                write!(f, "no heap for the records of the {of} (ulimit -d, ulimit -v): ask for less")
            }
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
