//! Tile registers of AMX: 8 of up to 16 rows of 64 bytes.

/// Rows of a tile register.
pub const ROWS: usize = 16;
/// Bytes of a row of a tile register.
pub const ROW: usize = 64;

/// Rows and bytes of a row of each tile register, as `ldtilecfg` takes them.
#[repr(C, align(64))]
pub struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Registers of so many rows, all as wide as they can be.
    pub fn of_rows(rows: [usize; 8]) -> Config {
        let (mut row_bytes, mut of_register) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(ROW as u16);
        of_register.iter_mut().zip(rows).for_each(|(register, rows)| *register = rows as u8);
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows: of_register }
    }
}
