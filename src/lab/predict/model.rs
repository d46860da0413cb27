//! The formulae of `geo`, held against figures of another program for the matrices that come with
//! this one.

#[cfg(test)]
use pghc_runtime::geo::model::Distances;
pub use pghc_runtime::geo::model::{Commit, Model};

#[cfg(test)]
mod tests {
    use pghc_wan::Matrix;

    use super::{Commit, Distances, Model};

    fn model(name: &str) -> (Model, Vec<String>) {
        let matrix = Matrix::find(name).expect("a built-in matrix");
        let names = matrix.zones().iter().map(ToString::to_string).collect();
        (Model::new(&matrix), names)
    }

    /// Compares with figures of another program, to the hundredth of a millisecond.
    fn check(got: impl Fn(usize) -> f64, wanted: &[f64]) {
        for (zone, wanted) in wanted.iter().enumerate() {
            assert!((got(zone) - wanted).abs() < 0.006, "{zone}: {} is not {wanted}", got(zone));
        }
    }

    /// The reference: an independent implementation of the same formulae, itself checked against a
    /// discrete simulation of Raft and against openraft in virtual time.
    #[test]
    fn limits_are_those_of_the_reference() {
        check(|zone| model("aws3").0.limit(zone), &[69.6, 69.6, 149.26]);
        check(|zone| model("aws5").0.limit(zone), &[63.87, 64.12, 64.12, 108.4, 118.33]);
        let nine = [115.3, 140.97, 204.4, 125.7, 142.47, 133.75, 160.55, 133.75, 154.42];
        check(|zone| model("aws9").0.limit(zone), &nine);
    }

    #[test]
    fn predictions_for_the_best_leader_are_those_of_the_reference() {
        let rows: [(&str, Commit, &str, f64, &[f64]); 6] = [
            ("aws3", Commit::LeaderPush, "us-east-1", 142.553, &[69.6, 139.2, 218.86]),
            ("aws3", Commit::AcksToAll, "us-east-1", 96.153, &[69.6, 69.6, 149.26]),
            (
                "aws5",
                Commit::LeaderPush,
                "us-west-2",
                124.648,
                &[86.06, 64.12, 128.24, 162.37, 182.45],
            ),
            (
                "aws5",
                Commit::AcksToAll,
                "us-west-2",
                90.874,
                &[74.965, 64.12, 74.965, 114.295, 126.025],
            ),
            (
                "aws9",
                Commit::LeaderPush,
                "us-east-1",
                237.597,
                &[115.3, 179.42, 230.6, 184.9, 208.14, 306.29, 334.16, 264.56, 315.0],
            ),
            (
                "aws9",
                Commit::AcksToAll,
                "eu-west-1",
                200.999,
                &[181.57, 208.805, 235.655, 125.7, 143.935, 193.145, 226.935, 226.935, 266.31],
            ),
        ];
        for (name, commit, leader, mean, zones) in rows {
            let (model, names) = model(name);
            let best = model.best_leader(commit);
            assert_eq!(names[best], leader, "{name} {commit:?}");
            check(|zone| model.raft(commit, best, zone), zones);
            let got = model.mean(|zone| model.raft(commit, best, zone));
            assert!((got - mean).abs() < 0.001, "{name} {commit:?}: {got}");
        }
    }

    #[test]
    fn voters_are_chosen_as_by_the_reference() {
        for (name, commit, count, voters, mean) in [
            ("aws5", Commit::LeaderPush, 3, "us-west-1 us-west-2 us-east-1", 82.468),
            ("aws5", Commit::AcksToAll, 3, "us-west-1 us-west-2 us-east-1", 69.664),
            ("aws9", Commit::AcksToAll, 3, "us-east-1 eu-west-1 eu-central-1", 136.637),
            (
                "aws9",
                Commit::AcksToAll,
                5,
                "us-east-1 us-west-2 eu-west-1 eu-central-1 ap-northeast-1",
                153.178,
            ),
        ] {
            let (model, names) = model(name);
            let set = model.best_voters(commit, count).expect("few zones");
            let named: Vec<&str> = set.iter().map(|voter| &*names[*voter]).collect();
            assert_eq!(named.join(" "), voters, "{name} {commit:?}");
            let model = model.with_voters(set);
            let leader = model.best_leader(commit);
            let got = model.mean(|zone| model.raft(commit, leader, zone));
            assert!((got - mean).abs() < 0.001, "{name} {commit:?}: {got}");
            assert_eq!(model.survives(), count / 2);
        }
        assert!(model("aws9").0.best_voters(Commit::AcksToAll, 10).is_err());
    }

    #[test]
    fn other_protocols_are_those_of_the_reference() {
        check(|zone| model("aws3").0.clock_rsm(zone), &[74.63, 100.515, 149.26]);
        check(|zone| model("aws5").0.clock_rsm(zone), &[66.735, 66.86, 91.225, 108.4, 118.33]);
        for (name, mean) in [("aws3", 184.0), ("aws5", 166.0), ("aws9", 299.0)] {
            let model = model(name).0;
            let got = model.mean(|zone| model.mencius(zone));
            assert!((got - mean).abs() < 0.7, "{name}: {got}");
        }
    }

    /// Three zones of a matrix.
    struct Three<'a>(&'a Model, [usize; 3]);

    impl Distances for Three<'_> {
        fn count(&self) -> usize {
            3
        }
        fn one_way_ms(&self, from: usize, to: usize) -> f64 {
            self.0.d(self.1[from], self.1[to])
        }
    }

    /// Proved on paper for the zone with the two shortest distances; here for every three of nine.
    #[test]
    fn three_zones_with_acks_to_all_meet_the_limit_everywhere() {
        let all = model("aws9").0;
        for a in 0..9 {
            for b in a + 1..9 {
                for c in b + 1..9 {
                    let three = Model::new(&Three(&all, [a, b, c]));
                    let leader = three.best_leader(Commit::AcksToAll);
                    let limits = [0, 1, 2].map(|zone| three.limit(zone));
                    check(|zone| three.raft(Commit::AcksToAll, leader, zone), &limits);
                }
            }
        }
    }

    #[test]
    fn weights_move_the_leader_to_where_the_writes_are() {
        let (model, names) = model("aws3");
        let model = model.with_weights(vec![0.1, 0.8, 0.1]);
        assert_eq!(names[model.best_leader(Commit::LeaderPush)], "eu-west-1");
    }
}
