//! Numbers that begin at a cache line: no whole vector and no row of a tile register lies across two.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line.
const LINE: usize = 64;

/// A buffer that begins at a cache line.
#[derive(Debug, Default)]
pub struct Lines<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Lines<T> {
    pub fn zeros(len: usize) -> Lines<T> {
        let data = vec![T::default(); len + LINE / size_of::<T>()];
        Lines { start: data.as_ptr().align_offset(LINE), data, len }
    }

    /// What it holds then is left over from earlier use.
    pub fn resize(&mut self, len: usize) {
        match self.start + len <= self.data.len() {
            true => self.len = len,
            false => *self = Lines::zeros(len),
        }
    }
}

impl<T: Copy + Default> Clone for Lines<T> {
    fn clone(&self) -> Lines<T> {
        let mut lines = Lines::zeros(self.len);
        lines.copy_from_slice(self);
        lines
    }
}

impl<T> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.start..][..self.len]
    }
}

impl<T> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begin_at_a_cache_line() {
        for len in [0, 1, 5, 16, 1000, 1 << 20] {
            let mut floats: Lines<f32> = Lines::zeros(len);
            let bytes: Lines<u8> = Lines::zeros(len).clone();
            assert_eq!((floats.len(), bytes.len()), (len, len));
            assert_eq!((floats.as_ptr() as usize % LINE, bytes.as_ptr() as usize % LINE), (0, 0));
            floats.fill(3.0);
            assert_eq!(floats.clone().to_vec(), vec![3.0; len]);
            floats.resize(2 * len + 1);
            assert_eq!((floats.len(), floats.as_ptr() as usize % LINE), (2 * len + 1, 0));
        }
    }
}
