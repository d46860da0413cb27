//! A latency matrix: the round trip between every two zones.
//!
//! Invariant: square, every cell finite and between 0 and [`ROUND_TRIP_MS_MAX`], every zone named
//! once. It need not be symmetric: half of the cell in row `a`, column `b` is the delay from `a` to `b`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use pghc_api::id::ZoneName;
use pghc_runtime::geo::model::Distances;

use super::line::LineView;

/// Most zones a matrix may have.
pub const ZONES_MAX: usize = 256;

/// Longest round trip in milliseconds; a larger one is a slip of the unit.
pub const ROUND_TRIP_MS_MAX: f64 = 60_000.0;

/// Round trips between zones.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    zones: Vec<ZoneName>,
    /// Row-major round trips, one row per zone.
    round_trips: Vec<Duration>,
}

/// Why a text is not a matrix: where, and what would have been accepted. Lines and columns count
/// from 1, columns in cells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {problem}")]
pub struct BadMatrix {
    /// Line of the text.
    pub line: usize,
    /// Cell of the line.
    pub column: usize,
    /// The problem in that place.
    pub problem: String,
}

/// Why a file gave no matrix.
#[derive(Debug, thiserror::Error)]
pub enum MatrixFileError {
    /// The file cannot be read; check its name.
    #[error(
        "cannot read the latency matrix {path}; aws3, aws5, aws9 and azure48 are built in, anything else is \
         a file"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file can be read and must be corrected.
    #[error("{path} is not a latency matrix: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: BadMatrix,
    },
}

/// Matrices that come with the program: name, what it is, text. The texts cite their sources.
const BUILT_IN: [(&str, &str, &str); 4] = [
    ("aws3", "us-east-1, eu-west-1, ap-northeast-1", include_str!("../../deploy/wan/aws3.csv")),
    (
        "aws5",
        "California, Oregon, Virginia, Tokyo, Ireland",
        include_str!("../../deploy/wan/aws5.csv"),
    ),
    ("aws9", "nine regions on five continents", include_str!("../../deploy/wan/aws9.csv")),
    ("azure48", "48 regions of Azure", include_str!("../../deploy/wan/azure48.csv")),
];

impl Matrix {
    /// Names of the matrices that come with the program, and what each is.
    pub fn built_in() -> impl Iterator<Item = (&'static str, &'static str)> {
        BUILT_IN.iter().map(|(name, what, _)| (*name, *what))
    }

    /// The built-in matrix of this name, else the one in the file of this name.
    ///
    /// # Errors
    /// If it is not built in, and the file cannot be read or is not a matrix.
    ///
    /// # Panics
    /// Never: a test reads the built-in ones.
    pub fn find(name: &str) -> Result<Self, MatrixFileError> {
        match BUILT_IN.iter().find(|(known, ..)| *known == name) {
            Some((.., text)) => Ok(text.parse().expect("the built-in matrices are well formed")),
            None => Self::read(Path::new(name)),
        }
    }

    /// A matrix in which every two of these zones are one `round_trip` apart.
    #[must_use]
    pub fn even(zones: Vec<ZoneName>, round_trip: Duration) -> Self {
        let count = zones.len();
        let cell = |place: usize| {
            if place / count == place % count { Duration::ZERO } else { round_trip }
        };
        let round_trips = (0..count * count).map(cell).collect();
        Self { zones, round_trips }
    }

    /// The matrix of a running emulator's lines, without their jitter and cuts; `None` when a line is
    /// missing. Both directions get the mean of the two.
    #[must_use]
    pub fn of_lines(lines: &[LineView]) -> Option<Self> {
        let mut zones: Vec<ZoneName> = Vec::new();
        for line in lines {
            for zone in [&line.from, &line.to] {
                if !zones.contains(zone) {
                    zones.push(zone.clone());
                }
            }
        }
        let delay_ms = |from: &ZoneName, to: &ZoneName| {
            let line = lines.iter().find(|line| line.from == *from && line.to == *to);
            if from == to { Some(0.0) } else { line.map(|line| line.delay_ms) }
        };
        let mut round_trips = Vec::with_capacity(zones.len() * zones.len());
        for from in &zones {
            for to in &zones {
                let both = delay_ms(from, to)? + delay_ms(to, from)?;
                round_trips.push(Duration::try_from_secs_f64(both / 1e3).ok()?);
            }
        }
        Some(Self { zones, round_trips })
    }

    /// Reads a matrix from a CSV file.
    ///
    /// # Errors
    /// If the file cannot be read or is not a matrix.
    pub fn read(path: &Path) -> Result<Self, MatrixFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| MatrixFileError::Unreadable { path: path.to_owned(), source })?;
        text.parse().map_err(|source| MatrixFileError::Malformed { path: path.to_owned(), source })
    }

    /// Every zone, in the order of the header.
    #[must_use]
    pub fn zones(&self) -> &[ZoneName] {
        &self.zones
    }

    /// Whether `zone` has a row.
    #[must_use]
    pub fn contains(&self, zone: &ZoneName) -> bool {
        self.zones.contains(zone)
    }

    /// The round trip in the row of `from` and the column of `to`.
    ///
    /// # Panics
    /// If the matrix does not [contain](Self::contains) one of the zones.
    #[must_use]
    pub fn round_trip(&self, from: &ZoneName, to: &ZoneName) -> Duration {
        let place = |zone: &ZoneName| {
            let found = self.zones.iter().position(|other| other == zone);
            found.unwrap_or_else(|| panic!("zone {zone} is not in the latency matrix"))
        };
        self.round_trips[place(from) * self.zones.len() + place(to)]
    }

    /// The delay of what travels from `from` to `to`: half the round trip.
    ///
    /// # Panics
    /// If the matrix does not [contain](Self::contains) one of the zones.
    #[must_use]
    pub fn one_way(&self, from: &ZoneName, to: &ZoneName) -> Duration {
        self.round_trip(from, to) / 2
    }

    /// The matrix of the first `count` zones; of all when there are not more.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let kept = count.min(self.zones.len());
        let rows = self.round_trips.chunks(self.zones.len().max(1)).take(kept);
        Self {
            zones: self.zones[..kept].to_vec(),
            round_trips: rows.flat_map(|row| &row[..kept]).copied().collect(),
        }
    }
}

impl Distances for Matrix {
    fn count(&self) -> usize {
        self.zones.len()
    }
    fn one_way_ms(&self, from: usize, to: usize) -> f64 {
        (self.round_trips[from * self.zones.len() + to] / 2).as_secs_f64() * 1e3
    }
}

impl FromStr for Matrix {
    type Err = BadMatrix;

    /// Parses a CSV text: header `zone,<z1>,<z2>,…`, then one row per zone in the same order, cells
    /// in milliseconds. Spaces around cells, empty lines at the end and lines that begin with `#` are
    /// allowed.
    fn from_str(text: &str) -> Result<Self, BadMatrix> {
        let lines = text.trim_end().lines().enumerate();
        let mut lines = lines.filter(|(_, text)| !text.starts_with('#'));
        let (first, header) = lines.next().unwrap_or_default();
        let zones = parse_header(first + 1, header)?;
        let mut round_trips = Vec::with_capacity(zones.len() * zones.len());
        let (mut rows, mut last) = (0, first + 1);
        for (place, text) in lines {
            last = place + 1;
            parse_row(last, text, rows, &zones, &mut round_trips)?;
            rows += 1;
        }
        if rows != zones.len() {
            let problem = format!("the matrix ends after {rows} of {} rows", zones.len());
            return Err(BadMatrix { line: last, column: 1, problem });
        }
        Ok(Self { zones, round_trips })
    }
}

fn parse_header(line: usize, header: &str) -> Result<Vec<ZoneName>, BadMatrix> {
    let bad = |column: usize, problem: String| Err(BadMatrix { line, column, problem });
    let mut cells = header.split(',').map(str::trim);
    let corner = cells.next().unwrap_or_default();
    if corner != "zone" {
        return bad(1, format!("{corner:?} stands where the header `zone,<z1>,…` begins"));
    }
    let mut zones: Vec<ZoneName> = Vec::new();
    for (place, cell) in cells.enumerate() {
        match cell.parse() {
            Ok(zone) if zones.contains(&zone) => {
                return bad(place + 2, format!("zone {zone} is named twice"));
            }
            Ok(zone) => zones.push(zone),
            Err(error) => return bad(place + 2, error.to_string()),
        }
    }
    match zones.len() {
        0 => bad(2, "the header names no zone".to_owned()),
        count if count > ZONES_MAX => {
            bad(ZONES_MAX + 2, format!("{count} zones are more than the limit {ZONES_MAX}"))
        }
        _ => Ok(zones),
    }
}

fn parse_row(
    line: usize,
    text: &str,
    place: usize,
    zones: &[ZoneName],
    round_trips: &mut Vec<Duration>,
) -> Result<(), BadMatrix> {
    let bad = |column: usize, problem: String| Err(BadMatrix { line, column, problem });
    let Some(zone) = zones.get(place) else {
        return bad(1, format!("there are more rows than the {} zones of the header", zones.len()));
    };
    let cells: Vec<&str> = text.split(',').map(str::trim).collect();
    if cells[0] != zone.as_str() {
        return bad(1, format!("{:?} stands where the row of {zone} belongs", cells[0]));
    }
    if cells.len() != zones.len() + 1 {
        let problem = format!("the row has {} round trips, not {}", cells.len() - 1, zones.len());
        return bad(cells.len().min(zones.len() + 1), problem);
    }
    for (place, cell) in cells[1..].iter().enumerate() {
        match cell.parse::<f64>() {
            Ok(ms) if (0.0..=ROUND_TRIP_MS_MAX).contains(&ms) => {
                round_trips.push(Duration::from_secs_f64(ms / 1e3));
            }
            _ => {
                let wanted = format!("a round trip in ms from 0 to {ROUND_TRIP_MS_MAX}");
                return bad(place + 2, format!("{cell:?} is not {wanted}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Matrix;

    const THREE: &str = "zone,us,eu,jp\nus,0,69.6,149.26\neu,70,0,201\njp,149.26, 201.03 ,0\n\n";

    #[test]
    fn a_matrix_gives_half_of_each_cell_by_the_names_of_its_zones() {
        let matrix: Matrix = THREE.parse().expect("a good matrix");
        let [us, eu, jp] = matrix.zones() else { panic!("three zones") };
        assert_eq!(matrix.one_way(us, eu), Duration::from_micros(34_800));
        assert_eq!(matrix.one_way(eu, us), Duration::from_millis(35));
        assert_eq!(matrix.round_trip(jp, eu), Duration::from_micros(201_030));
        assert_eq!(matrix.one_way(jp, jp), Duration::ZERO);
    }

    #[test]
    fn the_first_zones_keep_their_round_trips() {
        let matrix: Matrix = THREE.parse().expect("a good matrix");
        let two = matrix.first(2);
        assert_eq!(two, "zone,us,eu\nus,0,69.6\neu,70,0".parse().expect("a good matrix"));
        assert_eq!(matrix.first(7), matrix);
        assert!(matrix.first(0).zones().is_empty());
    }

    #[test]
    fn built_in_matrices_are_well_formed() {
        for (name, zones) in [("aws3", 3), ("aws5", 5), ("aws9", 9)] {
            let matrix = Matrix::find(name).expect(name);
            assert_eq!(matrix.zones().len(), zones);
            for (a, b) in matrix.zones().iter().zip(matrix.zones().iter().skip(1)) {
                assert_eq!(matrix.round_trip(a, b), matrix.round_trip(b, a), "{name}: {a} {b}");
                assert!(matrix.round_trip(a, b) > Duration::from_millis(20), "{name}: {a} {b}");
            }
        }
        // Measured in both directions, so its two halves differ.
        assert_eq!(Matrix::find("azure48").expect("built in").zones().len(), 48);
        assert_eq!(Matrix::built_in().count(), 4);
        assert!(Matrix::find("aws4").is_err());
        let error = "# a\nzone,a\n# b\na,x".parse::<Matrix>().expect_err("x is no number");
        assert_eq!((error.line, error.column), (4, 2), "{error}");
    }

    #[test]
    fn matrix_error_names_line_with_cell() {
        for (text, line, column, says) in [
            ("", 1, 1, "header"),
            ("zone", 1, 2, "no zone"),
            ("zone,a,a\n", 1, 3, "twice"),
            ("zone,a,1b\n", 1, 3, "zone name"),
            ("zone,a,b\na,0,1\n", 2, 1, "after 1 of 2"),
            ("zone,a,b\nb,0,1\n", 2, 1, "row of a"),
            ("zone,a,b\na,0\n", 2, 2, "1 round trips"),
            ("zone,a,b\na,0,1,2\n", 2, 3, "3 round trips"),
            ("zone,a,b\na,0,x\n", 2, 3, "\"x\""),
            ("zone,a,b\na,0,-1\n", 2, 3, "\"-1\""),
            ("zone,a,b\na,0,NaN\n", 2, 3, "\"NaN\""),
            ("zone,a,b\na,0,60001\n", 2, 3, "60000"),
            ("zone,a\na,0\nb,0\n", 3, 1, "more rows"),
        ] {
            let error = text.parse::<Matrix>().expect_err(text);
            assert_eq!((error.line, error.column), (line, column), "{text:?}: {error}");
            assert!(error.problem.contains(says), "{text:?}: {error}");
        }
    }
}
