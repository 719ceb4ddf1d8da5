//! User memory: what a call copies from and to, and what may not be there.

/// User memory could not be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault;

/// How a caller waits for a device that is in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// By the device's lock: nothing interrupts this caller.
    Block,
    /// It has waited a moment, and tries again.
    Again,
    /// A signal has come: the call ends with [`Error::Interrupted`](crate::Error::Interrupted).
    Interrupted,
}

/// Memory of the caller's, by address.
///
/// A kernel implements it with the loads and stores of its own that survive a
/// page fault. For callers with buffers at hand there are [`Input`] and
/// [`Output`], whose addresses are offsets.
pub trait User {
    /// The device is in use by somebody else: says how the caller waits for it. It may wait
    /// a moment in here.
    fn wait(&mut self) -> Wait {
        Wait::Block
    }

    /// Copies all of `to` from user memory at `from`.
    ///
    /// # Errors
    /// [`Fault`]; `to` may be partly filled then.
    fn copy_in(&mut self, from: usize, to: &mut [u8]) -> Result<(), Fault>;

    /// Copies all of `from` to user memory at `to`.
    ///
    /// # Errors
    /// [`Fault`]; the memory may be partly filled then.
    fn copy_out(&mut self, to: usize, from: &[u8]) -> Result<(), Fault>;
}

/// Bytes to be read only: address 0 is the first.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl User for Input<'_> {
    fn copy_in(&mut self, from: usize, to: &mut [u8]) -> Result<(), Fault> {
        let end = from.checked_add(to.len()).ok_or(Fault)?;
        to.copy_from_slice(self.0.get(from..end).ok_or(Fault)?);
        Ok(())
    }

    fn copy_out(&mut self, _to: usize, _from: &[u8]) -> Result<(), Fault> {
        Err(Fault)
    }
}

/// Bytes to be read and written: address 0 is the first.
#[derive(Debug)]
pub struct Output<'a>(pub &'a mut [u8]);

impl User for Output<'_> {
    fn copy_in(&mut self, from: usize, to: &mut [u8]) -> Result<(), Fault> {
        Input(self.0).copy_in(from, to)
    }

    fn copy_out(&mut self, to: usize, from: &[u8]) -> Result<(), Fault> {
        let end = to.checked_add(from.len()).ok_or(Fault)?;
        self.0.get_mut(to..end).ok_or(Fault)?.copy_from_slice(from);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_outside_of_a_buffer_are_a_fault_whatever_the_address() {
        let (mut bytes, mut two) = ([1, 2, 3], [0; 2]);
        for at in [2, 3, 4, usize::MAX - 1, usize::MAX] {
            assert_eq!(Input(&bytes).copy_in(at, &mut two), Err(Fault), "{at}");
            assert_eq!(Output(&mut bytes).copy_out(at, &two), Err(Fault), "{at}");
        }
        assert_eq!((bytes, two), ([1, 2, 3], [0; 2]));
        Output(&mut bytes).copy_in(1, &mut two).unwrap();
        assert_eq!(two, [2, 3]);
        Output(&mut bytes).copy_out(0, &two).unwrap();
        assert_eq!(bytes, [2, 3, 3]);
    }

    #[test]
    fn what_may_only_be_read_is_not_written() {
        assert_eq!(Input(&[0; 8]).copy_out(0, &[1]), Err(Fault));
    }
}
