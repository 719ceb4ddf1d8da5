//! Keys on their way to the guest: Ctrl-A x is for us, all others are not.

/// What ends the machine begins with it.
const CTRL_A: u8 = 1;

/// Looks at keys as they pass.
#[derive(Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Puts those of `typed` that are for the guest into `out`. Whether the
    /// machine is to end.
    pub fn pass(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &key in typed {
            if std::mem::take(&mut self.escaped) {
                match key {
                    b'x' | b'X' => return true,
                    _ => out.push(key),
                }
            } else if key == CTRL_A {
                self.escaped = true;
            } else {
                out.push(key);
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_x_ends_the_machine_even_in_two_parts() {
        let (mut keys, mut out) = (Keys::default(), Vec::new());
        assert!(!keys.pass(b"mem\r\x01", &mut out));
        assert!(keys.pass(b"xyz", &mut out));
        assert_eq!(out, b"mem\r");
    }

    #[test]
    fn a_ctrl_a_for_the_guest_is_typed_twice() {
        let (mut keys, mut out) = (Keys::default(), Vec::new());
        assert!(!keys.pass(b"a\x01\x01x\x03\x01b", &mut out));
        assert_eq!(out, b"a\x01x\x03b");
    }
}
