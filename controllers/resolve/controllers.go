package resolve

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The kinds of Kubernetes' own controllers whose pods serve, as they are read here.
var (
	DeploymentKind  = appsv1.SchemeGroupVersion.WithKind("Deployment")
	StatefulSetKind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	DaemonSetKind   = appsv1.SchemeGroupVersion.WithKind("DaemonSet")
)

// A controller is indexed by nothing but its namespace, which the cache knows already.
var (
	deployments = index[*appsv1.Deployment]{
		object: &appsv1.Deployment{}, newList: func() client.ObjectList { return &appsv1.DeploymentList{} }, kind: DeploymentKind,
	}
	statefulSets = index[*appsv1.StatefulSet]{
		object: &appsv1.StatefulSet{}, newList: func() client.ObjectList { return &appsv1.StatefulSetList{} }, kind: StatefulSetKind,
	}
	daemonSets = index[*appsv1.DaemonSet]{
		object: &appsv1.DaemonSet{}, newList: func() client.ObjectList { return &appsv1.DaemonSetList{} }, kind: DaemonSetKind,
	}
)

// IndexController registers nothing: controllers are listed by namespace alone.
func IndexController(context.Context, client.FieldIndexer) error { return nil }

// TrimController is a cache transform that keeps of a Deployment, StatefulSet or DaemonSet its selector.
func TrimController(obj any) (any, error) {
	switch c := obj.(type) {
	case *appsv1.Deployment:
		return &appsv1.Deployment{TypeMeta: c.TypeMeta, ObjectMeta: slim(c), Spec: appsv1.DeploymentSpec{Selector: c.Spec.Selector}}, nil
	case *appsv1.StatefulSet:
		return &appsv1.StatefulSet{TypeMeta: c.TypeMeta, ObjectMeta: slim(c), Spec: appsv1.StatefulSetSpec{Selector: c.Spec.Selector}}, nil
	case *appsv1.DaemonSet:
		return &appsv1.DaemonSet{TypeMeta: c.TypeMeta, ObjectMeta: slim(c), Spec: appsv1.DaemonSetSpec{Selector: c.Spec.Selector}}, nil
	}
	return obj, nil
}

func slim(obj client.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID(), ResourceVersion: obj.GetResourceVersion()}
}

// podController is what makes pods.
type podController struct {
	kind, name string
	// selector that its pods have for as long as it lives; nil if no selector of Istio's can say the same.
	selector map[string]string
}

// podControllers are those of a namespace, those of scheduled jobs without a selector.
func podControllers(ctx context.Context, s *source, namespace string) ([]podController, error) {
	var all []podController
	add := func(kind, name string, selector *metav1.LabelSelector) {
		c := podController{kind: kind, name: name}
		if selector != nil && len(selector.MatchExpressions) == 0 {
			c.selector = selector.MatchLabels
		}
		all = append(all, c)
	}
	ds, err := listAll(ctx, s, deployments, namespace)
	if err != nil {
		return nil, fmt.Errorf("listing workloads: %w", err)
	}
	for _, d := range ds {
		add(DeploymentKind.Kind, d.Name, d.Spec.Selector)
	}
	ss, err := listAll(ctx, s, statefulSets, namespace)
	if err != nil {
		return nil, fmt.Errorf("listing workloads: %w", err)
	}
	for _, set := range ss {
		add(StatefulSetKind.Kind, set.Name, set.Spec.Selector)
	}
	daemons, err := listAll(ctx, s, daemonSets, namespace)
	if err != nil {
		return nil, fmt.Errorf("listing workloads: %w", err)
	}
	for _, d := range daemons {
		add(DaemonSetKind.Kind, d.Name, d.Spec.Selector)
	}
	jobs, err := listAll(ctx, s, jobsByMention, namespace)
	if err != nil {
		return nil, fmt.Errorf("listing workloads: %w", err)
	}
	for _, job := range jobs {
		add(CronJobKind.Kind, job.Name, nil)
	}
	return all, nil
}
