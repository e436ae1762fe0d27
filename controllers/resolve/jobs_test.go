package resolve

import (
	"slices"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/servicesecurity/operator/api/v1alpha1"
)

const day = 24 * time.Hour

func newJob(namespace, name, schedule string, args ...string) *batchv1.CronJob {
	job := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: batchv1.CronJobSpec{Schedule: schedule}}
	job.Spec.JobTemplate.Spec.Template.Spec.Containers = []corev1.Container{{Name: "job", Args: args}}
	return job
}

func TestLongestGap(t *testing.T) {
	for schedule, want := range map[string]time.Duration{
		"* * * * *":             time.Minute,
		"*/15 * * * *":          15 * time.Minute,
		"0 * * * *":             time.Hour,
		"@hourly":               time.Hour,
		"0 9-17 * * *":          16 * time.Hour,
		"30 4 * * *":            day,
		"0 0,6 * * *":           18 * time.Hour,
		"0 9 * * 1-5":           3 * day,
		"0 4 * * 0":             7 * day,
		"@weekly":               7 * day,
		"0 0 1 * *":             31 * day,
		"@monthly":              31 * day,
		"0 0 31 * *":            61 * day,
		"@yearly":               366 * day,
		"0 0 29 2 *":            4*365*day + day,
		"0 0 13 * 5":            7 * day,
		"0 0 13 * ?":            31 * day,
		"@every 36h":            36 * time.Hour,
		"CRON_TZ=UTC 0 4 * * 0": 7 * day,
		"TZ=Nowhere/At 0 4 * *": 0,
		"TZ=UTC":                0,
		"0 0 30 2 *":            0,
		"rubbish":               0,
		"":                      0,
	} {
		got, ok := LongestGap(schedule)
		if got != want && ok || ok != (want > 0) {
			t.Errorf("the longest gap of %q is %s, %t, want %s", schedule, got, ok, want)
		}
	}
}

// TestLongestGapFollowsTheParser compares with the runs that the parser itself tells.
func TestLongestGapFollowsTheParser(t *testing.T) {
	for _, schedule := range []string{"*/7 3,9 * * *", "5 1 */3 * *", "0 12 1,15 * 2", "13 7 * 2-4 *", "0 0 */2 1-6 1", "59 23 31 12 *"} {
		parsed, err := cron.ParseStandard("CRON_TZ=UTC " + schedule)
		if err != nil {
			t.Fatal(err)
		}
		var want time.Duration
		at := parsed.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))
		for at.Year() < 2032 {
			next := parsed.Next(at)
			want, at = max(want, next.Sub(at)), next
		}
		if got, ok := LongestGap(schedule); !ok || got != want {
			t.Errorf("the longest gap of %q is %s, %t, and by its runs %s", schedule, got, ok, want)
		}
	}
}

func TestMentions(t *testing.T) {
	job := newJob("shop", "j", "@daily", "curl", "--fail", "http://web.foo:80/x?to=db.bar.svc.cluster.local", "https://api.example.com", "10.0.0.1", "web", "a..b")
	pod := &job.Spec.JobTemplate.Spec.Template.Spec
	pod.InitContainers = []corev1.Container{{Command: []string{"wait", "init.foo.svc"}}}
	pod.Containers[0].Env = []corev1.EnvVar{{Name: "URL", Value: "grpc://env.foo:1"}, {Name: "REF", ValueFrom: &corev1.EnvVarSource{}}}
	diff(t, "mentions", []string{"db.bar", "env.foo", "init.foo", "web.foo"}, mentions(job))
	diff(t, "keys", []string{"*.bar", "*.foo", "db.bar", "env.foo", "init.foo", "web.foo"}, mentionKeys(job))
	trimmed, err := TrimCronJob(job)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "keys of the trimmed job", mentionKeys(job), mentionKeys(trimmed.(*batchv1.CronJob)))
	var many []string
	for i := range 3 * maxMentions {
		many = append(many, "s"+string(rune('a'+i%26))+string(rune('a'+i/26))+".foo")
	}
	if got := len(mentions(newJob("shop", "j", "@daily", many...))); got != maxMentions {
		t.Errorf("%d mentions are kept, want %d", got, maxMentions)
	}
}

func TestTrimCronJob(t *testing.T) {
	job := newJob("shop", "j", "@daily", "nothing")
	job.Annotations, job.Spec.Suspend, job.Status.LastScheduleTime = tags{"long": "text"}, new(true), &metav1.Time{Time: epoch}
	want := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "j"}, Spec: batchv1.CronJobSpec{Schedule: "@daily", Suspend: new(true)}}
	got, err := TrimCronJob(job)
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "job", want, got.(*batchv1.CronJob))
	if other, err := TrimCronJob("other"); other != "other" || err != nil {
		t.Errorf("what is no job becomes %v, %v", other, err)
	}
}

func TestScheduledJobs(t *testing.T) {
	web := tags{"app": "web"}
	suspended := newJob("foo", "suspended", "@weekly")
	suspended.Spec.Suspend = new(true)
	awake := newJob("foo", "awake", "@weekly")
	awake.Spec.Suspend = new(false)
	jobs := []*batchv1.CronJob{
		newJob("foo", "weekly", "@weekly"), newJob("foo", "daily", "@daily"), newJob("foo", "broken", "?"), suspended, awake,
		newJob("foo", "both", "@weekly", "http://web.foo/"), newJob("shop", "caller", "@monthly", "http://web.foo/"),
		newJob("shop", "other", "@monthly", "http://db.foo/"), newJob("shop", "unrelated", "@monthly"),
	}
	window := func(text v1alpha1.Duration) func(*v1alpha1.ServiceSecurityProfile) {
		return func(p *v1alpha1.ServiceSecurityProfile) {
			p.Spec.MTLS.Rollout = &v1alpha1.Rollout{ObservationWindow: text}
		}
	}
	for name, tc := range map[string]struct {
		profile *v1alpha1.ServiceSecurityProfile
		want    []string
	}{
		"a Service":             {newProfile("p", 0, toService("web"), strict), []string{"foo/awake", "foo/both", "foo/weekly", "shop/caller"}},
		"a window of an hour":   {edited(newProfile("p", 0, toService("web"), strict), window("1h")), []string{"foo/awake", "foo/both", "foo/daily", "foo/weekly", "shop/caller"}},
		"a window of a week":    {edited(newProfile("p", 0, toService("web"), strict), window("168h")), []string{"shop/caller"}},
		"a namespace":           {newProfile("p", 0, toNamespace, strict), []string{"foo/awake", "foo/both", "foo/weekly", "shop/caller", "shop/other"}},
		"the mesh":              {in("istio-system", newProfile("p", 0, toMesh, strict)), []string{"foo/awake", "foo/both", "foo/weekly", "shop/caller", "shop/other", "shop/unrelated"}},
		"a workload of no host": {newProfile("p", 0, toWorkload(tags{"app": "lonely"}), strict), []string{"foo/awake", "foo/both", "foo/weekly"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := cluster(t, newService("web", web, port(80, 8080)), newPod("web-a", web), newPod("lonely", tags{"app": "lonely"}),
				jobs[0], jobs[1], jobs[2], jobs[3], jobs[4], jobs[5], jobs[6], jobs[7], jobs[8])
			var got []string
			for _, job := range mustResolve(t, r, tc.profile).ScheduledJobs {
				got = append(got, job.Namespace+"/"+job.Name)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("jobs are %v, want %v", got, tc.want)
			}
		})
	}
}
