package resolve

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/servicesecurity/operator/api/v1alpha1"
	"github.com/servicesecurity/operator/controllers/facts"
)

// CronJobKind is a scheduled job as it is read here.
var CronJobKind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// A job is indexed by the Services that its containers name in so many words.
var jobsByMention = index[*batchv1.CronJob]{
	name:    "servicesecurity.dev/job-mention",
	object:  &batchv1.CronJob{},
	newList: func() client.ObjectList { return &batchv1.CronJobList{} },
	keys:    mentionKeys,
	kind:    CronJobKind,
}

// IndexCronJobs registers the indexes of CronJob.
func IndexCronJobs(ctx context.Context, indexer client.FieldIndexer) error {
	return jobsByMention.register(ctx, indexer)
}

const (
	// maxMentions bounds what is kept of one job.
	maxMentions = 64
	// anyService of a namespace.
	anyService = "*"
)

// dotted is what may be a host's name in a longer text.
var dotted = regexp.MustCompile(`[a-z0-9][-a-z0-9]*(?:\.[a-z0-9][-a-z0-9]*)+`)

// mentions are the Services, "name.namespace", that a job's containers name in their commands, arguments and environment, in
// order. What comes from a ConfigMap or is built into the image is not seen.
func mentions(job *batchv1.CronJob) []string {
	pod := job.Spec.JobTemplate.Spec.Template.Spec
	var found []string
	for _, containers := range [][]corev1.Container{pod.InitContainers, pod.Containers} {
		for _, container := range containers {
			texts := slices.Concat(container.Command, container.Args)
			for _, variable := range container.Env {
				texts = append(texts, variable.Value)
			}
			for _, text := range texts {
				for _, host := range dotted.FindAllString(text, maxMentions) {
					parts := strings.Split(host, ".")
					if len(parts) == 2 || parts[2] == "svc" {
						found = append(found, parts[0]+"."+parts[1])
					}
				}
			}
		}
	}
	slices.Sort(found)
	found = slices.Compact(found)
	return found[:min(len(found), maxMentions)]
}

func mentionKeys(job *batchv1.CronJob) []string {
	var keys []string
	for _, mention := range mentions(job) {
		_, namespace, _ := strings.Cut(mention, ".")
		keys = append(keys, mention, anyService+"."+namespace)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// TrimCronJob is a cache transform that keeps of a scheduled job when it runs and which Services it names.
func TrimCronJob(obj any) (any, error) {
	job, ok := obj.(*batchv1.CronJob)
	if !ok {
		return obj, nil
	}
	trimmed := &batchv1.CronJob{
		TypeMeta: job.TypeMeta,
		ObjectMeta: metav1.ObjectMeta{
			Name: job.Name, Namespace: job.Namespace, UID: job.UID, ResourceVersion: job.ResourceVersion,
		},
		Spec: batchv1.CronJobSpec{Schedule: job.Spec.Schedule, Suspend: job.Spec.Suspend},
	}
	if named := mentions(job); len(named) > 0 {
		trimmed.Spec.JobTemplate.Spec.Template.Spec.Containers = []corev1.Container{{Args: named}}
	}
	return trimmed, nil
}

// calendarStart is a day that schedules are looked at from.
var calendarStart = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// cycle is how many months it takes until a schedule has done all that it does, 29 February included.
const cycle = 8*12 + 3

// LongestGap is the longest time between two runs of a schedule, as if every day had 24 hours; false if it never runs, or
// cannot be read.
func LongestGap(schedule string) (time.Duration, bool) {
	// The time zone does not change how far apart runs are, and the parser panics on one without a schedule after it.
	if strings.HasPrefix(schedule, "TZ=") || strings.HasPrefix(schedule, "CRON_TZ=") {
		_, schedule, _ = strings.Cut(schedule, " ")
	}
	parsed, err := cron.ParseStandard(strings.TrimSpace(schedule))
	if err != nil {
		return 0, false
	}
	if calendar, ok := parsed.(*cron.SpecSchedule); ok {
		return calendarGap(calendar)
	}
	// The only other one is "@every", which keeps its delay.
	return parsed.Next(calendarStart).Sub(calendarStart), true
}

func calendarGap(schedule *cron.SpecSchedule) (time.Duration, bool) {
	first, last, gap := dayGap(schedule)
	before, runs, today := 0, 0, 0
	for i := range cycle {
		month := calendarStart.AddDate(0, i, 0)
		length, weekday := month.AddDate(0, 1, -1).Day(), int(month.Weekday())
		for day := 1; day <= length; day++ {
			today++
			if !runsOn(schedule, month.Month(), day, (weekday+day-1)%7) {
				continue
			}
			if runs++; runs > 1 {
				gap = max(gap, time.Duration(today-before)*24*time.Hour-last+first)
			}
			before = today
		}
	}
	return gap, runs > 1
}

// dayGap is the first and the last run of a day, and the longest time between two in between.
func dayGap(schedule *cron.SpecSchedule) (first, last, gap time.Duration) {
	first = -1
	for minute := range 24 * 60 {
		if schedule.Hour&(1<<(minute/60)) == 0 || schedule.Minute&(1<<(minute%60)) == 0 {
			continue
		}
		now := time.Duration(minute) * time.Minute
		if first < 0 {
			first = now
		} else {
			gap = max(gap, now-last)
		}
		last = now
	}
	return first, last, gap
}

// star is the parser's mark of a field that is "*".
const star = 1 << 63

// runsOn says whether a schedule runs on a day: if both its days of the month and of the week are given, either will do.
func runsOn(schedule *cron.SpecSchedule, month time.Month, day, weekday int) bool {
	if schedule.Month&(1<<month) == 0 {
		return false
	}
	inMonth, inWeek := schedule.Dom&(1<<day) != 0, schedule.Dow&(1<<weekday) != 0
	if (schedule.Dom|schedule.Dow)&star != 0 {
		return inMonth && inWeek
	}
	return inMonth || inWeek
}

// resolveScheduledJobs finds the jobs that may call the target and run less often than once in the observation window: those
// of the target's namespace, and those anywhere that name one of its Services.
func (res *resolution) resolveScheduledJobs(ctx context.Context) error {
	jobs, err := within(ctx, res, jobsByMention)
	if err != nil {
		return err
	}
	elsewhere, err := find(ctx, res.source, jobsByMention, "", res.mentioned()...)
	if err != nil {
		return err
	}
	for _, job := range elsewhere {
		if job.Namespace != res.profile.Namespace {
			jobs = append(jobs, job)
		}
	}
	sortByName(jobs)
	window := observationWindow(res.profile)
	for _, job := range jobs {
		suspended := job.Spec.Suspend != nil && *job.Spec.Suspend
		if gap, ok := LongestGap(job.Spec.Schedule); ok && gap > window && !suspended {
			res.facts.ScheduledJobs = append(res.facts.ScheduledJobs, facts.ScheduledJob{Namespace: job.Namespace, Name: job.Name, Gap: gap})
		}
	}
	return nil
}

// mentioned are the keys of jobs that name one of the target's Services. For the mesh there are none: it looks at every job.
func (res *resolution) mentioned() []string {
	switch res.facts.Target.Scope {
	case v1alpha1.ScopeNamespace:
		return []string{anyService + "." + res.profile.Namespace}
	case v1alpha1.ScopeWorkload:
		var keys []string
		for _, service := range res.services {
			keys = append(keys, service.Name+"."+service.Namespace)
		}
		return keys
	case v1alpha1.ScopeMesh, v1alpha1.ScopeGateway:
	}
	return nil
}
