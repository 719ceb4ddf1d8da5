//! Files as they are, or compressed: their first bytes tell which, not their names.

use flate2::bufread::MultiGzDecoder;
use lzma_rs::error::Error as XzError;
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::FrameDecoderError;
use std::io::{self, BufRead, BufReader, Cursor, ErrorKind, Read, Write};

/// Bytes that an xz file may have when it is unpacked, which it is as a whole.
const XZ_LIMIT: usize = 1 << 30;
/// The longest of the magic numbers.
const MAGIC: usize = 6;

/// How a file is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
    Xz,
}

impl Packing {
    /// What a file is that begins with these bytes.
    fn of(start: &[u8]) -> Packing {
        match start {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            _ => Packing::Plain,
        }
    }

    /// Its name; none of a plain file.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Packing::Plain => None,
            Packing::Gzip => Some("gzip"),
            Packing::Zstd => Some("zstd"),
            Packing::Xz => Some("xz"),
        }
    }
}

/// How `from` is compressed, and what it says.
pub fn unpack<'r>(mut from: impl Read + 'r) -> io::Result<(Packing, io::Result<Box<dyn BufRead + 'r>>)> {
    // A pipe may give less at a time than it has.
    let mut start = Vec::with_capacity(MAGIC);
    (&mut from).take(MAGIC as u64).read_to_end(&mut start)?;
    let packing = Packing::of(&start);
    let whole = BufReader::new(Cursor::new(start).chain(from));
    let unpacked: io::Result<Box<dyn BufRead + 'r>> = match packing {
        Packing::Plain => Ok(Box::new(whole)),
        Packing::Gzip => Ok(Box::new(BufReader::new(MultiGzDecoder::new(whole)))),
        Packing::Zstd => Ok(Box::new(BufReader::new(Frames::Between(whole)))),
        Packing::Xz => unpack_xz(whole).map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn BufRead>),
    };
    Ok((packing, unpacked))
}

/// The frames of a zstd file, one after the other.
enum Frames<R: BufRead> {
    Between(R),
    Within(Box<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
    /// An error was told, or the end.
    Over,
}

impl<R: BufRead> Frames<R> {
    /// Begins the next frame; false at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        let Frames::Between(mut from) = std::mem::replace(self, Frames::Over) else { return Ok(false) };
        if from.fill_buf()?.is_empty() {
            return Ok(false);
        }
        *self = Frames::Within(Box::new(StreamingDecoder::new(from).map_err(damaged)?));
        Ok(true)
    }
}

fn damaged(why: FrameDecoderError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_string())
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Frames::Within(frame) = self {
                match frame.read(into)? {
                    0 if !into.is_empty() => {}
                    n => return Ok(n),
                }
                let Frames::Within(frame) = std::mem::replace(self, Frames::Over) else { return Ok(0) };
                *self = Frames::Between(frame.into_inner());
            }
            if !self.begin()? {
                return Ok(0);
            }
        }
    }
}

/// Bytes, up to a limit.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > XZ_LIMIT {
            return Err(io::Error::other(format!("more than {XZ_LIMIT} bytes when it is unpacked")));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unpack_xz(mut from: impl BufRead) -> io::Result<Vec<u8>> {
    let mut unpacked = Limited(Vec::new());
    match lzma_rs::xz_decompress(&mut from, &mut unpacked) {
        Ok(()) => Ok(unpacked.0),
        Err(XzError::IoError(cause)) => Err(cause),
        Err(XzError::XzError(why) | XzError::LzmaError(why)) => Err(io::Error::new(ErrorKind::InvalidData, why)),
        Err(XzError::HeaderTooShort(cause)) => Err(cause),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    /// `text` in each of the ways.
    pub fn in_each_way(text: &str) -> [(Packing, Vec<u8>); 4] {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        let mut xz = Vec::new();
        lzma_rs::xz_compress(&mut text.as_bytes(), &mut xz).unwrap();
        [
            (Packing::Plain, text.as_bytes().to_vec()),
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Zstd, compress_to_vec(text.as_bytes(), CompressionLevel::Fastest)),
            (Packing::Xz, xz),
        ]
    }

    fn all(bytes: &[u8]) -> (Packing, io::Result<String>) {
        let (packing, text) = unpack(bytes).unwrap();
        let mut all = String::new();
        let read = text.and_then(|mut text| text.read_to_string(&mut all));
        (packing, read.map(|_| all))
    }

    #[test]
    fn what_is_packed_in_any_way_reads_the_same() {
        let long: String = (0..20_000).map(|n| format!("line {n}\n")).collect();
        for text in ["", "one\ntwo\n", &long] {
            for (packing, bytes) in in_each_way(text) {
                let (told, read) = all(&bytes);
                assert_eq!((told, read.unwrap()), (packing, text.to_owned()));
            }
        }
    }

    #[test]
    fn files_of_several_frames_are_read_to_their_end() {
        let frames = ["one\n", "two\n", "three\n"].map(|text| in_each_way(text)[2].1.clone()).concat();
        assert_eq!(all(&frames).1.unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused() {
        for (packing, bytes) in &in_each_way("one\ntwo\n")[1..] {
            for cut in MAGIC..bytes.len() {
                assert!(all(&bytes[..cut]).1.is_err(), "{packing:?} cut at {cut}");
            }
        }
    }
}
