//! Write latency under each leader, compared with the model: shows whether a leadership transfer
//! paid off.

use std::time::Duration;

use super::analysis::Raw;
use super::outcome::at;
use super::watch::LeaderTerm;
use crate::load::Op;
use crate::predict::model::Model;

impl Raw<'_> {
    /// Notes the zones' medians, by their writes, of what was planned in each leader term after the warm-up,
    /// and what the formula says of them.
    pub fn measure_leader_terms(&self, model: Option<&Model>, leader_terms: &mut [LeaderTerm]) {
        let warmup = self.scenario.warmup.0;
        let since = |seconds: f64| warmup + Duration::from_secs_f64(seconds.max(0.0));
        for leader_term in leader_terms.iter_mut().filter(|leader_term| leader_term.zone.is_some())
        {
            let (from, to) = (since(leader_term.from_s), since(leader_term.to_s));
            let leader = self.zones.iter().position(|zone| Some(zone) == leader_term.zone.as_ref());
            let (mut all, mut sum, mut expected) = (0.0, 0.0, 0.0);
            for zone in 0..self.zones.len() {
                let samples = self.logs.iter().filter(|log| log.zone == zone);
                let samples = samples.flat_map(|log| &log.samples);
                let ours = samples.filter(|it| {
                    it.op == Op::Write && it.ok && it.planned >= from && it.planned < to
                });
                let micros = ours.map(|it| u64::try_from(it.latency.as_micros()));
                let mut micros: Vec<u64> = micros.map(|us| us.unwrap_or(u64::MAX)).collect();
                micros.sort_unstable();
                #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
                let count = micros.len() as f64;
                let model = model.zip(leader);
                let model = model.map(|(model, leader)| {
                    model.raft(self.scenario.cluster.formula(), leader, zone)
                });
                all += count;
                sum += count * at(&micros, 0.5);
                expected += count * model.unwrap_or(f64::NAN);
            }
            if all > 0.0 {
                leader_term.p50_ms = Some(sum / all);
                leader_term.model_ms = Some(expected / all).filter(|ms| ms.is_finite());
            }
        }
    }
}
