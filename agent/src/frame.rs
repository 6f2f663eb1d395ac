//! Frames: what our two ends put on a stream, a head in JSON and bytes behind it.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

/// A head with its bytes.
pub type Framed<T> = (T, Vec<u8>);

/// A frame longer than this is not one of ours.
pub const LONGEST: usize = 32 << 20;

/// Writes a frame: two lengths, the head, the bytes.
///
/// # Errors
/// When the other side is gone or does not read.
pub fn write_frame<T: Serialize>(mut to: impl Write, head: &T, bytes: &[u8]) -> io::Result<()> {
    let json = serde_json::to_vec(head)?;
    let mut frame = format!("{} {}\n", json.len(), bytes.len()).into_bytes();
    frame.extend(json);
    frame.extend(bytes);
    to.write_all(&frame)
}

/// Takes a frame off the beginning of what was heard; `None` while it is not complete.
///
/// # Errors
/// When it is no frame.
pub fn take_frame<T: for<'a> Deserialize<'a>>(heard: &mut Vec<u8>) -> io::Result<Option<Framed<T>>> {
    let Some(line) = heard.iter().take(FIRST_LINE).position(|byte| *byte == b'\n') else {
        return if heard.len() < FIRST_LINE {
            Ok(None)
        } else {
            Err(no_frame())
        };
    };
    let (json, paths) = lengths(heard.get(..line).unwrap_or_default())?;
    let start = line + 1;
    let (Some(head), Some(body)) = (
        heard.get(start..start + json),
        heard.get(start + json..start + json + paths),
    ) else {
        return Ok(None);
    };
    let taken = (serde_json::from_slice(head)?, body.to_vec());
    heard.drain(..start + json + paths);
    Ok(Some(taken))
}

/// Reads one frame, and nothing of what follows it.
///
/// # Errors
/// When the other side is gone, silent, or says something else.
pub fn read_frame<T: for<'a> Deserialize<'a>>(from: &mut impl BufRead) -> io::Result<Framed<T>> {
    let mut line = Vec::new();
    let most = u64::try_from(FIRST_LINE).unwrap_or(u64::MAX);
    if from.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (json, paths) = lengths(line.strip_suffix(b"\n").ok_or_else(no_frame)?)?;
    let mut head = vec![0; json];
    from.read_exact(&mut head)?;
    let mut body = vec![0; paths];
    from.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&head)?, body))
}

/// The longest line that a frame begins with.
const FIRST_LINE: usize = 40;

fn no_frame() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no frame of ours")
}

fn lengths(line: &[u8]) -> io::Result<(usize, usize)> {
    let text = std::str::from_utf8(line).ok().and_then(|text| text.split_once(' '));
    let (json, paths) = text.ok_or_else(no_frame)?;
    match (json.parse(), paths.parse()) {
        (Ok(json), Ok(paths)) if json <= LONGEST && paths <= LONGEST => Ok((json, paths)),
        (Ok(_) | Err(_), _) => Err(no_frame()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_taken_when_it_is_complete_and_nothing_else_is() {
        let mut whole = Vec::new();
        write_frame(&mut whole, &"head", b"a\0b\n\xff\0").unwrap();
        let mut heard = Vec::new();
        for byte in whole.iter().chain(b"1").copied() {
            heard.push(byte);
            if let Some((head, paths)) = take_frame::<String>(&mut heard).unwrap() {
                assert_eq!((head.as_str(), paths.as_slice()), ("head", b"a\0b\n\xff\0".as_slice()));
                assert!(heard.is_empty());
            }
        }
        assert_eq!(heard, b"1");
        let stream = [whole.as_slice(), b"rest"].concat();
        let mut from = stream.as_slice();
        assert_eq!(read_frame::<String>(&mut from).unwrap().0, "head");
        assert_eq!(from, b"rest");
        for length in 0..whole.len() {
            assert!(
                read_frame::<String>(&mut whole.get(..length).unwrap()).is_err(),
                "{length}"
            );
        }
        for bad in [
            "x y\n",
            "1\n",
            "99999999999 1\n",
            "1 99999999999\n",
            "-1 0\n",
            "3 0\n{}}",
        ] {
            assert!(take_frame::<String>(&mut bad.as_bytes().to_vec()).is_err(), "{bad:?}");
        }
        assert!(take_frame::<String>(&mut vec![b'1'; 41]).is_err());
    }
}
