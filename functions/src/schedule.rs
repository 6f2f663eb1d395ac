//! The one-minute schedule that starts the planner: made with the first association, off when there is none.

use anyhow::Context;
use aws_sdk_scheduler::Client;
use aws_sdk_scheduler::operation::get_schedule::GetScheduleOutput;
use aws_sdk_scheduler::types::{
    DeadLetterConfig, FlexibleTimeWindow, FlexibleTimeWindowMode, RetryPolicy, ScheduleState, Target,
};
use tracing::info;
use warmspare_domain::ids::Deployment;

use crate::settings::ScheduleSettings;

/// The finest that EventBridge Scheduler offers. Source: `reference/aws/aws.md` §1, 2026-11.
const EVERY: &str = "rate(1 minute)";

/// A tick that is not delivered within a minute is worthless, and so is a second attempt; the defaults are 24 h and 185 attempts. Source: as above.
const OLDEST_EVENT_S: i32 = 60;

/// The schedule of the beat.
#[derive(Debug, Clone)]
pub struct BeatSchedule {
    client: Client,
    name: String,
    settings: ScheduleSettings,
}

/// How the schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Missing,
    /// It exists, and whether it is as we would make it.
    Is {
        state: State,
        is_ours: bool,
    },
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    On,
    Off,
}

impl BeatSchedule {
    /// The schedule of this deployment; calls nobody yet.
    #[must_use]
    pub fn new(client: Client, deployment: &Deployment, settings: ScheduleSettings) -> Self {
        Self {
            client,
            name: format!("{deployment}-beat"),
            settings,
        }
    }

    /// Makes sure that it runs. Doing it twice is one call more.
    ///
    /// # Errors
    /// When Scheduler does not answer or refuses; it may be off then.
    pub async fn run(&self) -> anyhow::Result<()> {
        match self.standing().await? {
            Standing::Is {
                state: State::On,
                is_ours: true,
            } => Ok(()),
            Standing::Is { .. } => self.update(State::On).await,
            Standing::Missing => self.create().await,
        }
    }

    /// Makes sure that it rests.
    ///
    /// # Errors
    /// When Scheduler does not answer or refuses; it may still run then, which costs less than a cent a day.
    pub async fn rest(&self) -> anyhow::Result<()> {
        match self.standing().await? {
            Standing::Missing | Standing::Is { state: State::Off, .. } => Ok(()),
            Standing::Is { state: State::On, .. } => self.update(State::Off).await,
        }
    }

    async fn standing(&self) -> anyhow::Result<Standing> {
        let found = self
            .client
            .get_schedule()
            .group_name(&self.settings.group)
            .name(&self.name)
            .send()
            .await;
        match found {
            Ok(found) => Ok(Standing::Is {
                state: match found.state() {
                    Some(ScheduleState::Disabled) => State::Off,
                    _ => State::On,
                },
                is_ours: self.is_as_we_make_it(&found),
            }),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                Ok(Standing::Missing)
            }
            Err(error) => Err(error).context("Scheduler did not say how the beat's schedule stands"),
        }
    }

    fn is_as_we_make_it(&self, found: &GetScheduleOutput) -> bool {
        found.schedule_expression() == Some(EVERY)
            && found.target().is_some_and(|target| {
                target.arn() == self.settings.planner_arn && target.role_arn() == self.settings.role_arn
            })
    }

    async fn create(&self) -> anyhow::Result<()> {
        let made = self
            .client
            .create_schedule()
            .group_name(&self.settings.group)
            .name(&self.name)
            // The same for every process: two that make it at once make one.
            .client_token(&self.name)
            .schedule_expression(EVERY)
            .flexible_time_window(exactly()?)
            .target(self.target()?)
            .state(ScheduleState::Enabled)
            .send()
            .await;
        match made {
            Ok(_) => {
                info!("the beat's schedule was made");
                Ok(())
            }
            // Another process was faster.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|error| error.is_conflict_exception()) =>
            {
                Ok(())
            }
            Err(error) => Err(error).context("the beat's schedule could not be made"),
        }
    }

    /// An update replaces everything: what is left out falls back to a default.
    async fn update(&self, state: State) -> anyhow::Result<()> {
        let wire = match state {
            State::On => ScheduleState::Enabled,
            State::Off => ScheduleState::Disabled,
        };
        self.client
            .update_schedule()
            .group_name(&self.settings.group)
            .name(&self.name)
            .schedule_expression(EVERY)
            .flexible_time_window(exactly()?)
            .target(self.target()?)
            .state(wire)
            .send()
            .await
            .context("the beat's schedule could not be changed")?;
        info!("the beat's schedule is {state:?} now");
        Ok(())
    }

    fn target(&self) -> anyhow::Result<Target> {
        let retries = RetryPolicy::builder()
            .maximum_retry_attempts(0)
            .maximum_event_age_in_seconds(OLDEST_EVENT_S)
            .build();
        let target = Target::builder()
            .arn(&self.settings.planner_arn)
            .role_arn(&self.settings.role_arn)
            .retry_policy(retries)
            .set_dead_letter_config(self.settings.dead_letters_arn.as_ref().map(dead_letters))
            .input("{}");
        Ok(target.build()?)
    }
}

fn dead_letters(arn: &String) -> DeadLetterConfig {
    DeadLetterConfig::builder().arn(arn).build()
}

fn exactly() -> anyhow::Result<FlexibleTimeWindow> {
    Ok(FlexibleTimeWindow::builder()
        .mode(FlexibleTimeWindowMode::Off)
        .build()?)
}
